/* dsml: the tags of tool markup, read one at a time.
 *
 *   <｜DSML｜invoke name="NAME">     </｜DSML｜parameter>
 *
 * Reads what was meant, too: doubled or ASCII bars, typographic quotes, stray blanks.
 * A result never changes when more bytes come, so a caller that gets its bytes in
 * pieces asks again while the tag is DSML_PARTIAL. Pure functions; any thread. */
#ifndef TEXT_DSML_H
#define TEXT_DSML_H

#include <stdbool.h>
#include "base/bytes.h"
#include "base/slice.h"

#define DSML_MARKER  "｜DSML｜"
#define DSML_TAG_MAX 1024               /* bytes; a longer tag is broken */

typedef enum { DSML_OTHER, DSML_TOOL_CALLS, DSML_INVOKE, DSML_PARAMETER } dsml_kind;
typedef enum { DSML_STRING_MISSING, DSML_STRING_FALSE, DSML_STRING_TRUE } dsml_string;

typedef enum {
    DSML_NONE,                          /* no tag of ours                                          */
    DSML_PARTIAL,                       /* more bytes are needed                                   */
    DSML_BROKEN,                        /* begins like one of the three and goes wrong; len: the part that is right */
    DSML_TAG
} dsml_result;

typedef struct {
    dsml_kind   kind;
    bool        closing;
    bool        marked;                 /* the marker is in it, however spelled                    */
    bool        exact;                  /* spelled as the model was taught                         */
    bool        has_name;
    slice       name;                   /* as written, entities and all                            */
    dsml_string string;
    size_t      len;                    /* bytes                                                   */
} dsml_tag;

/* The tag at the beginning of s, which begins with '<'. loose: also one of the three without
 * its marker. */
dsml_result dsml_read(slice s, bool loose, dsml_tag *out);

/* Undoes &amp; &lt; &gt; &quot; of a name. */
void dsml_unescape(slice name, bytes *out);

#endif
