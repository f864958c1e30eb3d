/* A PKCS#11 module for tests: passes all calls on to the module $FAULTS_MODULE. In the folder $FAULTS, each login appends a byte to the
   file `logins`. While `hang` exists, C_Sign and C_Decrypt don't return. If `fail` exists, the next of them removes it and returns the
   error whose number it holds. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef unsigned long (*Operation)(unsigned long, void *, unsigned long, void *, unsigned long *);
typedef unsigned long (*Login)(unsigned long, unsigned long, void *, unsigned long);

/* CK_FUNCTION_LIST of PKCS#11 2.40: the places of the functions are in its order. */
struct FunctionList {
    unsigned char version[2];
    void *functions[68];
};
enum { LOGIN = 18, DECRYPT = 34, SIGN = 43 };

static struct FunctionList ours, *theirs;

static const char *path(const char *name) {
    static char text[4096];
    snprintf(text, sizeof text, "%s/%s", getenv("FAULTS"), name);
    return text;
}

static unsigned long fault(void) {
    unsigned long code = 0;
    while (access(path("hang"), F_OK) == 0) usleep(10000);
    FILE *file = fopen(path("fail"), "r");
    if (file) {
        if (fscanf(file, "%lu", &code) != 1) abort();
        fclose(file);
        unlink(path("fail"));
    }
    return code;
}

static unsigned long do_sign(unsigned long session, void *in, unsigned long length, void *out, unsigned long *out_length) {
    unsigned long code = fault();
    return code ? code : ((Operation)theirs->functions[SIGN])(session, in, length, out, out_length);
}

static unsigned long do_decrypt(unsigned long session, void *in, unsigned long length, void *out, unsigned long *out_length) {
    unsigned long code = fault();
    return code ? code : ((Operation)theirs->functions[DECRYPT])(session, in, length, out, out_length);
}

static unsigned long do_login(unsigned long session, unsigned long user, void *pin, unsigned long length) {
    FILE *file = fopen(path("logins"), "a");
    if (!file || fputc('x', file) == EOF || fclose(file)) abort();
    return ((Login)theirs->functions[LOGIN])(session, user, pin, length);
}

unsigned long C_GetFunctionList(struct FunctionList **list) {
    void *module = dlopen(getenv("FAULTS_MODULE"), RTLD_NOW);
    unsigned long (*get)(struct FunctionList **) = module ? dlsym(module, "C_GetFunctionList") : NULL;
    if (!get || get(&theirs)) abort();
    ours = *theirs;
    ours.functions[LOGIN] = do_login;
    ours.functions[DECRYPT] = do_decrypt;
    ours.functions[SIGN] = do_sign;
    *list = &ours;
    return 0;
}
