/* A stand-in for NVIDIA's libnvidia-ml.so.1, for the functions that voicepool calls.
 *
 * Everything it says is in the folder that NVML_STAND_IN names and is read anew at each call:
 *
 *   state        driver VERSION
 *                fail CODE                  every call returns this nvmlReturn_t (0: none)
 *                hang 0|1                   calls do not come back while it is 1
 *                pids visible|hidden|foreign|unsupported|nameless
 *                gpu INDEX UUID TOTAL OTHERS ok|lost MODE NAME...
 *                mig PARENT NUMBER UUID TOTAL OTHERS NAME...
 *   memory/PID   UUID BYTES                 what a process has allocated on a device
 *
 * As a driver does, it forgets what the dead had, and a device that was lost stays lost for a
 * process until that initialises the library again.
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    FUNCTION_NOT_FOUND = 13,
    GPU_IS_LOST = 15,
    UNKNOWN = 999
};

#define MOST 32
#define FOREIGN 5000000u /* added to process ids, as of another PID namespace */

typedef struct {
    int index, parent, number, lost, mode;
    char uuid[96], name[96];
    unsigned long long total, others;
} device_t;

typedef struct {
    unsigned long long total, free, used;
} memory_t;

typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} process_t;

static device_t devices[MOST];
static int count, fail, hang, initialised;
static int was_lost[MOST];
static char driver[64], pids[32];

static void parse(char *line) {
    device_t *device = &devices[count];
    char state[16];
    if (sscanf(line, "driver %63s", driver) == 1 || sscanf(line, "fail %d", &fail) == 1 ||
        sscanf(line, "hang %d", &hang) == 1 || sscanf(line, "pids %31s", pids) == 1)
        return;
    memset(device, 0, sizeof *device);
    device->parent = -1;
    if (sscanf(line, "gpu %d %95s %llu %llu %15s %d %95[^\n]", &device->index, device->uuid,
               &device->total, &device->others, state, &device->mode, device->name) == 7) {
        device->lost = strcmp(state, "lost") == 0;
        count++;
    } else if (sscanf(line, "mig %d %d %95s %llu %llu %95[^\n]", &device->parent, &device->number,
                      device->uuid, &device->total, &device->others, device->name) == 6) {
        device->index = -1;
        count++;
    }
}

static int refresh(void) {
    char path[4096], line[512];
    const char *folder = getenv("NVML_STAND_IN");
    do {
        FILE *file;
        snprintf(path, sizeof path, "%s/state", folder ? folder : ".");
        file = fopen(path, "r");
        if (file == NULL) return UNKNOWN;
        count = fail = hang = 0;
        while (count < MOST && fgets(line, sizeof line, file)) parse(line);
        fclose(file);
        if (hang) usleep(10000);
    } while (hang);
    return fail;
}

static int is_alive(const char *pid) {
    char path[300], state = 'X';
    FILE *file;
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    file = fopen(path, "r");
    if (file == NULL) return 0;
    if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1) state = 'X';
    fclose(file);
    return state != 'Z' && state != 'X';
}

/* What living processes have on a device: their number and sum, and the list if there is room. */
static unsigned allocations(const char *uuid, process_t *list, unsigned room,
                            unsigned long long *sum) {
    char folder[4096], path[4608], owner[96];
    unsigned found = 0;
    unsigned long long bytes;
    struct dirent *entry;
    DIR *dir;
    *sum = 0;
    snprintf(folder, sizeof folder, "%s/memory", getenv("NVML_STAND_IN"));
    dir = opendir(folder);
    if (dir == NULL) return 0;
    while ((entry = readdir(dir)) != NULL) {
        FILE *file;
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9' || !is_alive(entry->d_name)) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        file = fopen(path, "r");
        if (file == NULL) continue;
        if (fscanf(file, "%95s %llu", owner, &bytes) == 2 && strcmp(owner, uuid) == 0) {
            *sum += bytes;
            if (found < room) {
                list[found].pid = (unsigned)atoi(entry->d_name);
                if (strcmp(pids, "foreign") == 0) list[found].pid += FOREIGN;
                list[found].used = strcmp(pids, "nameless") == 0 ? ~0ull : bytes;
                list[found].gpu_instance = list[found].compute_instance = ~0u;
            }
            found++;
        }
        fclose(file);
    }
    closedir(dir);
    return found;
}

static int ready(device_t *device) {
    int status = refresh();
    int index = (int)(device - devices);
    if (!initialised) return UNINITIALIZED;
    if (status != OK) return status;
    if (device->parent >= 0) return OK;
    if (device->lost) was_lost[index] = 1;
    return was_lost[index] ? GPU_IS_LOST : OK;
}

static int is_split(int index) {
    int i;
    for (i = 0; i < count; i++)
        if (devices[i].parent == index) return 1;
    return 0;
}

static int text(const char *from, char *to, unsigned size) {
    snprintf(to, size, "%s", from);
    return OK;
}

/* --- the interface --- */

int nvmlInitWithFlags(unsigned flags) {
    int status = refresh();
    (void)flags;
    if (status != OK) return status;
    memset(was_lost, 0, sizeof was_lost);
    initialised = 1;
    return OK;
}

int nvmlShutdown(void) {
    initialised = 0;
    return OK;
}

const char *nvmlErrorString(int code) {
    return code == UNKNOWN ? "Unknown Error" : "an error of the stand-in";
}

int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    int status = refresh();
    return status != OK ? status : text(driver, version, size);
}

int nvmlDeviceGetCount_v2(unsigned *number) {
    int i, status = refresh();
    if (!initialised) return UNINITIALIZED;
    if (status != OK) return status;
    *number = 0;
    for (i = 0; i < count; i++) *number += devices[i].parent < 0;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **device) {
    int i, status = refresh();
    if (status != OK) return status;
    for (i = 0; i < count; i++)
        if (devices[i].parent < 0 && devices[i].index == (int)index) {
            *device = &devices[i];
            return ready(*device);
        }
    return INVALID_ARGUMENT;
}

int nvmlDeviceGetUUID(device_t *device, char *uuid, unsigned size) {
    int status = ready(device);
    return status != OK ? status : text(device->uuid, uuid, size);
}

int nvmlDeviceGetName(device_t *device, char *name, unsigned size) {
    int status = ready(device);
    return status != OK ? status : text(device->name, name, size);
}

int nvmlDeviceGetComputeMode(device_t *device, unsigned *mode) {
    int status = ready(device);
    if (device->parent >= 0) return NOT_SUPPORTED;
    if (strcmp(pids, "old") == 0) return UNKNOWN;
    *mode = (unsigned)device->mode;
    return status;
}

int nvmlDeviceGetMigMode(device_t *device, unsigned *current, unsigned *pending) {
    int status = ready(device);
    if (status != OK) return status;
    if (strcmp(pids, "old") == 0) return FUNCTION_NOT_FOUND;
    if (!is_split(device->index)) return NOT_SUPPORTED;
    *current = *pending = 1;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(device_t *device, unsigned *number) {
    *number = 7;
    return ready(device);
}

int nvmlDeviceGetMigDeviceHandleByIndex(device_t *device, unsigned number, device_t **instance) {
    int i, status = ready(device);
    if (status != OK) return status;
    for (i = 0; i < count; i++)
        if (devices[i].parent == device->index && devices[i].number == (int)number) {
            *instance = &devices[i];
            return OK;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetMemoryInfo(device_t *device, memory_t *memory) {
    unsigned long long sum;
    int status = ready(device);
    if (status != OK) return status;
    allocations(device->uuid, NULL, 0, &sum);
    memory->total = device->total;
    memory->used = device->others + sum;
    if (memory->used > memory->total) memory->used = memory->total;
    memory->free = memory->total - memory->used;
    return OK;
}

static int list_processes(device_t *device, int listed, unsigned *number, process_t *list) {
    unsigned found, room = list == NULL ? 0 : *number;
    unsigned long long sum;
    int status = ready(device);
    if (status != OK) return status;
    found = listed ? allocations(device->uuid, list, room, &sum) : 0;
    *number = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device_t *device, unsigned *number, process_t *list) {
    if (strcmp(pids, "unsupported") == 0) return NOT_SUPPORTED;
    if (strcmp(pids, "old") == 0) return FUNCTION_NOT_FOUND;
    return list_processes(device, strcmp(pids, "hidden") != 0 && strcmp(pids, "mps") != 0, number,
                          list);
}

int nvmlDeviceGetComputeRunningProcesses_v2(device_t *device, unsigned *number, process_t *list) {
    return list_processes(device, 1, number, list);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(device_t *device, unsigned *number,
                                               process_t *list) {
    if (strcmp(pids, "old") == 0) return FUNCTION_NOT_FOUND;
    return list_processes(device, strcmp(pids, "mps") == 0, number, list);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t *device, unsigned *number, process_t *list) {
    if (strcmp(pids, "old") == 0) return NOT_SUPPORTED;
    if (strcmp(pids, "flaky") == 0) return UNKNOWN;
    return list_processes(device, 0, number, list);
}
