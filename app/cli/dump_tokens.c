#include "dump_tokens.h"

#include "printer.h"
#include "base/utf8.h"
#include "gguf/gguf.h"
#include "model.h"

/* Printable UTF-8 as it is, every other byte as \xNN. */
static void append_entry(bytes *out, const char *data, size_t n)
{
    for (size_t i = 0; i < n; ) {
        uint32_t cp;
        const int len = utf8_next(data + i, n - i, &cp);
        const bool control = cp < 0x20 || (cp >= 0x7F && cp < 0xA0);
        if (cp != UTF8_INVALID && !control)
            bytes_append(out, data + i, (size_t)len);
        else
            for (int k = 0; k < len; k++) bytes_printf(out, "\\x%02x", (unsigned char)data[i + (size_t)k]);
        i += (size_t)len;
    }
}

static void append_list(bytes *out, const vocab *v, const token_list *l)
{
    bytes_char(out, '[');
    for (size_t i = 0; i < l->n; i++) bytes_printf(out, "%s%d", i ? ", " : "", l->ids[i]);
    bytes_text(out, "]\n");
    for (size_t i = 0; i < l->n; i++) {
        size_t n;
        const char *entry = vocab_bytes(v, l->ids[i], &n);
        bytes_printf(out, "%6d  ", l->ids[i]);
        append_entry(out, entry, n);
        bytes_char(out, '\n');
    }
}

static ds4_status tokenise(const cli_options *o, const prompt_source *p, const gguf *g, const vocab *v,
                           token_list *out, ds4_error *err)
{
    const slice text = { p->text, p->len }, system = { p->system, p->system_len };
    if (!o->dump_tokens) return prompt_tokens_raw(v, text, out, err);
    const prompt_mode mode = {
        .mode = (think_mode)o->flags.mode, .profile = model_profile(&o->flags, chat_profile_of(g)),
        .ctx = o->flags.ctx, .think_max_min_ctx = o->flags.think_max_min_ctx,
    };
    return prompt_tokens_chat(v, &mode, system, text, out, err);
}

static exit_code print(const vocab *v, const token_list *l, console *c)
{
    bytes out;
    bytes_init(&out, (size_t)4 << 30);
    append_list(&out, v, l);
    const exit_code code = out.failed ? (console_error(c, "no memory for the list"), CLI_NO_MEMORY)
                                      : output_finish(output_write(out.data, out.len), c);
    bytes_free(&out);
    return code;
}

exit_code dump_tokens_run(const cli_options *o, const prompt_source *prompt, console *c)
{
    model_path path;
    ds4_error err = { 0 };
    gguf *g = NULL;
    vocab *v = NULL;
    token_list tokens;
    token_list_init(&tokens, (size_t)1 << 28);

    exit_code code = model_find(&path, &o->flags, c);
    if (code) return code;
    ds4_status st = gguf_open(&g, path.path, NULL, &err);
    if (!st) st = vocab_open(&v, g, &err);
    code = model_exit_code(st);
    if (!st) {
        st = tokenise(o, prompt, g, v, &tokens, &err);
        code = exit_code_of(st);
    }
    if (st) console_error(c, "%s", err.message);
    else    code = print(v, &tokens, c);

    token_list_free(&tokens);
    vocab_close(v);
    gguf_close(g);
    return code;
}
