/* clock_heat: how fast the processor is allowed to run, and how warm it is. */
#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"
#include "host/machine.h"
#include "host/text_file.h"

static void add(host_readings *r, const char *group, const char *name, const char *value)
{
    if (r->n == HOST_READINGS) return;
    host_reading *x = &r->reading[r->n++];
    x->group = group;
    snprintf(x->name, sizeof x->name, "%s", name);
    snprintf(x->value, sizeof x->value, "%s", value);
}

void host_read_clock(host_readings *r, const char *root)
{
    static const struct { const char *name, *file; } files[] = {
        { "clock now", "scaling_cur_freq" }, { "clock least", "cpuinfo_min_freq" }, { "clock most", "cpuinfo_max_freq" },
    };
    char path[128], value[96];
    bool found = false;
    for (size_t i = 0; i < countof(files); i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cpufreq/%s", files[i].file);
        if (!text_file_line(root, path, value, sizeof value)) continue;
        char mhz[32];
        snprintf(mhz, sizeof mhz, "%.0f MHz", atof(value) / 1000);
        add(r, "clock", files[i].name, mhz);
        found = true;
    }
    if (text_file_line(root, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", value, sizeof value))
        add(r, "clock", "governor", value);
    if (found) return;
    if (text_file_field(root, "/proc/cpuinfo", "cpu MHz", value, sizeof value)) {
        char mhz[96];
        snprintf(mhz, sizeof mhz, "%.80s MHz", value);
        add(r, "clock", "clock nominal", mhz);
    }
    host_note_missing(r, "clock", "no cpufreq here, as in most virtual machines", "look on the host");
}

void host_read_heat(host_readings *r, const char *root)
{
    char path[128], type[48], value[32];
    int zones = 0;
    for (int i = 0; i < 8; i++) {
        snprintf(path, sizeof path, "/sys/class/thermal/thermal_zone%d/temp", i);
        if (!text_file_line(root, path, value, sizeof value)) continue;
        snprintf(path, sizeof path, "/sys/class/thermal/thermal_zone%d/type", i);
        if (!text_file_line(root, path, type, sizeof type)) snprintf(type, sizeof type, "zone %d", i);
        char degrees[32];
        snprintf(degrees, sizeof degrees, "%.1f C", atof(value) / 1000);
        add(r, "heat", type, degrees);
        zones++;
    }
    if (!zones) host_note_missing(r, "heat", "no thermal zone is shown", "look on the host");

    static const char *const supplies[] = { "AC", "ACAD", "ADP1", "AC0" };
    for (size_t i = 0; i < countof(supplies); i++) {
        snprintf(path, sizeof path, "/sys/class/power_supply/%s/online", supplies[i]);
        if (!text_file_line(root, path, value, sizeof value)) continue;
        add(r, "heat", "power source", *value == '1' ? "mains" : "battery");
        return;
    }
    host_note_missing(r, "power source", "no power supply is shown", "");
}
