/* notify: tells the service manager how far we are (sd_notify(3)): "READY=1", "STOPPING=1". */
#ifndef APP_SERVE_NOTIFY_H
#define APP_SERVE_NOTIFY_H

/* Nothing happens without NOTIFY_SOCKET in the environment. */
void notify(const char *state);

#endif
