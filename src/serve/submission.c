#include "serve/submission.h"

#include <uv.h>

static tool_choice choice_of(const api_request *a)
{
    switch (a->choice) {
    case API_TOOLS_NONE:     return CHOOSE_NONE;
    case API_TOOLS_REQUIRED: return CHOOSE_REQUIRED;
    case API_TOOLS_NAMED:    return CHOOSE_NAMED;
    default:                 return CHOOSE_AUTO;
    }
}

static ds4_sampling sampling_of(const api_request *a, const ds4_logit_bias *bias)
{
    ds4_sampling s = ds4_sampling_defaults();
    s.temperature = a->temperature;
    s.top_k = a->top_k > 0 ? a->top_k : 0;
    s.top_p = a->top_p;
    s.min_p = a->min_p;
    s.repetition_penalty = a->repetition_penalty;
    s.frequency_penalty = a->frequency_penalty;
    s.presence_penalty = a->presence_penalty;
    s.seed = a->seed;
    if (!a->has_seed) uv_random(NULL, NULL, &s.seed, sizeof s.seed, 0, NULL);
    s.bias = bias;
    s.n_bias = bias ? a->n_bias : 0;
    return s;
}

sched_request submission_of(const prepared *p, int prompt, api_dialect d, const ds4_logit_bias *bias)
{
    const api_request *a = p->request;
    const int n = a->n > 0 ? a->n : 1;
    return (sched_request){
        .prompt = &p->prompts[prompt], .start = p->start, .tools = a->callable, .n_tools = a->n_callable,
        .choice = choice_of(a), .forced_tool = a->chosen_tool, .one_call = a->one_call, .raw = d == API_COMPLETIONS,
        .sampling = sampling_of(a, bias), .n = n, .first_choice = prompt * n, .max_tokens = a->max_tokens,
        .think_budget = a->think_budget, .stops = a->stops, .n_stops = a->n_stops, .include_stop = a->include_stop,
        .ids = d == API_MESSAGES ? CALL_ID_ANTHROPIC : CALL_ID_OPENAI, .logprobs = a->logprobs,
        .prompt_logprobs = a->echo && a->logprobs, .top_logprobs = a->top_logprobs, .side = a->side,
    };
}
