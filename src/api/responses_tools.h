/* responses_tools: the tools of the Responses dialect, inwards: functions, custom tools, namespaces of both, and the
 * local shell. */
#ifndef API_RESPONSES_TOOLS_H
#define API_RESPONSES_TOOLS_H

#include "api/api_common.h"
#include "api/responses.h"

/* NAMESPACE.NAME, or NAME where there is no namespace. */
slice responses_full_name(api_reader *rd, slice space, slice name);

bool  responses_read_tools(api_reader *rd, responses_request *q);
bool  responses_read_tool_choice(api_reader *rd);

#endif
