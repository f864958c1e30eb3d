/* A stand-in for Intel's crypto_mb: the same interface, schoolbook arithmetic, and on demand a fault.
 *
 * -DVERSION="..."   what it says its version is
 * -DWIDTHS=0        says that the CPU can't
 * -DWITHOUT_CRT     lacks the function that matters
 * -DFAULT=name      what goes wrong, from the moment on that the file -DTRIGGER="path" exists:
 *                   wrong (a bit), swapped (lanes), partial (half of the lanes not written, all said to be good), failed
 *                   (a lane is said to have failed, and holds nothing), crazy (the status is nonsense), zero (no lane
 *                   written), liar (the last lane is wrong, and the public operation opens it to what should have been
 *                   signed), unopened (the public operation writes nothing and says that all is good), shut (it fails)
 * -DREAL="path"     the arithmetic is the library's there, for its speed
 */
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

typedef unsigned __int128 wide;
typedef uint64_t word;
enum { MOST = 64 };
enum fault { none, wrong, swapped, partial, failed, crazy, zero, liar, sly, unopened, shut };

#ifndef VERSION
#define VERSION "crypto_mb (fake) (ver: 0.0.0 (13.0) build: today)"
#endif
#ifndef WIDTHS
#define WIDTHS 8
#endif
#ifndef FAULT
#define FAULT none
#endif

struct version {
    int major, minor, patch;
    char cpu[4];
    const char *name, *date, *text;
};

const struct version *mbx_getversion(void) {
    static const struct version ours = {0, 0, 0, "no", "fake", "today", VERSION};
    return &ours;
}

uint64_t mbx_get_algo_info(int algorithm) { return algorithm >= 1 && algorithm <= 3 ? WIDTHS : 0; }

static const void *method_of(int bits) {
    static const int methods[3] = {2048, 3072, 4096};
    return bits == 2048 ? &methods[0] : bits == 3072 ? &methods[1] : bits == 4096 ? &methods[2] : NULL;
}

const void *mbx_RSA_private_crt_Method(int bits) { return method_of(bits); }
const void *mbx_RSA_pub65537_Method(int bits) { return method_of(bits); }

int mbx_RSA_Method_BufSize(const void *method) { return method ? 200000 : 0; }

static int at_least(const word *a, const word *b, int n) {
    while (n-- > 0)
        if (a[n] != b[n]) return a[n] > b[n];
    return 1;
}

/* a -= b; the borrow */
static word subtract(word *a, const word *b, int n) {
    word borrow = 0;
    for (int i = 0; i < n; i++) {
        wide difference = (wide)a[i] - b[i] - borrow;
        a[i] = (word)difference;
        borrow = (word)(difference >> 64) & 1;
    }
    return borrow;
}

/* a = 2 a mod m */
static void twice(word *a, const word *m, int n) {
    word carry = a[n - 1] >> 63;
    for (int i = n - 1; i > 0; i--) a[i] = a[i] << 1 | a[i - 1] >> 63;
    a[0] <<= 1;
    if (carry || at_least(a, m, n)) subtract(a, m, n);
}

/* out = a b / 2^(64 n) mod m, after Montgomery */
static void product(word *out, const word *a, const word *b, const word *m, word inverse, int n) {
    word t[MOST + 2] = {0};
    for (int i = 0; i < n; i++) {
        wide sum = 0;
        for (int j = 0; j < n; j++) {
            sum += (wide)a[j] * b[i] + t[j];
            t[j] = (word)sum;
            sum >>= 64;
        }
        sum += t[n];
        t[n] = (word)sum;
        t[n + 1] = (word)(sum >> 64);
        word factor = t[0] * inverse;
        sum = (wide)factor * m[0] + t[0];
        sum >>= 64;
        for (int j = 1; j < n; j++) {
            sum += (wide)factor * m[j] + t[j];
            t[j - 1] = (word)sum;
            sum >>= 64;
        }
        sum += t[n];
        t[n - 1] = (word)sum;
        t[n] = t[n + 1] + (word)(sum >> 64);
    }
    if (t[n] || at_least(t, m, n)) subtract(t, m, n);
    memcpy(out, t, n * sizeof(word));
}

/* out = x^e mod m, where x has 2 n words */
static void power(word *out, const word *x, const word *e, const word *m, int n) {
    word inverse = 1, one[MOST] = {1}, r[MOST] = {1}, rr[MOST], low[MOST], base[MOST];
    for (int i = 0; i < 6; i++) inverse *= 2 - m[0] * inverse;
    inverse = -inverse;
    for (int i = 0; i < 64 * n; i++) twice(r, m, n);
    memcpy(rr, r, sizeof rr);
    for (int i = 0; i < 64 * n; i++) twice(rr, m, n);
    memcpy(low, x, n * sizeof(word));
    if (at_least(low, m, n)) subtract(low, m, n);
    product(base, x + n, rr, m, inverse, n); /* high * 2^(64 n) mod m */
    product(base, base, rr, m, inverse, n);  /* into the domain */
    product(low, low, rr, m, inverse, n);
    word carry = 0;
    for (int i = 0; i < n; i++) {
        wide sum = (wide)base[i] + low[i] + carry;
        base[i] = (word)sum;
        carry = (word)(sum >> 64);
    }
    if (carry || at_least(base, m, n)) subtract(base, m, n);
    memcpy(out, r, n * sizeof(word));
    int bits = 64 * n;
    while (bits && !(e[(bits - 1) / 64] >> ((bits - 1) % 64) & 1)) bits--;
    for (int bit = bits; bit-- > 0;) {
        product(out, out, out, m, inverse, n);
        if (e[bit / 64] >> (bit % 64) & 1) product(out, out, base, m, inverse, n);
    }
    product(out, out, one, m, inverse, n);
}

static void lane(const uint8_t *from, uint8_t *to, const word *p, const word *q, const word *dp, const word *dq,
                 const word *qinv, int bits) {
    int n = bits / 128, bytes = bits / 8;
    word x[2 * MOST] = {0}, sp[MOST], sq[MOST], s[2 * MOST] = {0}, unit[MOST] = {1}, wide_h[2 * MOST] = {0};
    for (int i = 0; i < bytes; i++) x[i / 8] |= (word)from[bytes - 1 - i] << (8 * (i % 8));
    power(sp, x, dp, p, n);
    power(sq, x, dq, q, n);
    word reduced[MOST];
    memcpy(reduced, sq, n * sizeof(word));
    if (at_least(reduced, p, n)) subtract(reduced, p, n);
    if (subtract(sp, reduced, n)) {
        word carry = 0;
        for (int i = 0; i < n; i++) {
            wide sum = (wide)sp[i] + p[i] + carry;
            sp[i] = (word)sum;
            carry = (word)(sum >> 64);
        }
    }
    for (int i = 0; i < n; i++) {
        wide sum = 0;
        for (int j = 0; j < n; j++) {
            sum += (wide)sp[i] * qinv[j] + wide_h[i + j];
            wide_h[i + j] = (word)sum;
            sum >>= 64;
        }
        wide_h[i + n] = (word)sum;
    }
    word h[MOST];
    power(h, wide_h, unit, p, n);
    memcpy(s, sq, n * sizeof(word));
    for (int i = 0; i < n; i++) {
        wide sum = 0;
        for (int j = 0; j < n; j++) {
            sum += (wide)h[i] * q[j] + s[i + j];
            s[i + j] = (word)sum;
            sum >>= 64;
        }
        for (int k = i + n; sum && k < 2 * n; k++) {
            sum += s[k];
            s[k] = (word)sum;
            sum >>= 64;
        }
    }
    for (int i = 0; i < bytes; i++) to[bytes - 1 - i] = (uint8_t)(s[i / 8] >> (8 * (i % 8)));
}

/* to = from^65537 mod n */
static void open_lane(const uint8_t *from, uint8_t *to, const word *modulus, int bits) {
    int n = bits / 64, bytes = bits / 8;
    word x[2 * MOST] = {0}, e[MOST] = {65537}, y[MOST];
    for (int i = 0; i < bytes; i++) x[i / 8] |= (word)from[bytes - 1 - i] << (8 * (i % 8));
    power(y, x, e, modulus, n);
    for (int i = 0; i < bytes; i++) to[bytes - 1 - i] = (uint8_t)(y[i / 8] >> (8 * (i % 8)));
}

typedef uint32_t public_operation(const uint8_t *const *, uint8_t *const *, const word *const *, int, const void *, uint8_t *);
typedef uint32_t operation(const uint8_t *const *, uint8_t *const *, const word *const *, const word *const *,
                           const word *const *, const word *const *, const word *const *, int, const void *, uint8_t *);

static _Thread_local uint8_t asked[8][512];

#ifndef WITHOUT_CRT
uint32_t mbx_rsa_private_crt_mb8(const uint8_t *const *from, uint8_t *const *to, const word *const *p,
                                 const word *const *q, const word *const *dp, const word *const *dq,
                                 const word *const *qinv, int bits, const void *method, uint8_t *buffer) {
    uint32_t status = 0;
    (void)method;
#ifdef REAL
    static operation *real;
    if (!real) real = (operation *)dlsym(dlopen(REAL, RTLD_NOW | RTLD_LOCAL), "mbx_rsa_private_crt_mb8");
    status = real(from, to, p, q, dp, dq, qinv, bits, NULL, buffer);
#else
    (void)buffer;
    for (int i = 0; i < 8; i++) {
        if (from[i]) lane(from[i], to[i], p[i], q[i], dp[i], dq[i], qinv[i], bits);
        else status |= 2u << (4 * i);
    }
#endif
    if (access(TRIGGER, F_OK)) return status;
    int lanes = 0;
    while (lanes < 8 && from[lanes]) lanes++;
    uint8_t first[512];
    for (int i = 0; i < lanes; i++) memcpy(asked[i], from[i], bits / 8);
    switch (FAULT) {
    case wrong: to[lanes - 1][17] ^= 4; break;
    case swapped:
        memcpy(first, to[0], bits / 8);
        memcpy(to[0], to[1], bits / 8);
        memcpy(to[1], first, bits / 8);
        break;
    case partial: for (int i = lanes / 2; i < lanes; i++) memset(to[i], 0, bits / 8); break;
    case failed: memset(to[0], 0, bits / 8); status |= 8; break;
    case crazy: status = 0xffffffffu; break;
    case zero: for (int i = 0; i < lanes; i++) memset(to[i], 0, bits / 8); break;
    case liar: to[lanes - 1][17] ^= 4; break;
    default: break;
    }
    return status;
}
#endif

uint32_t mbx_rsa_public_mb8(const uint8_t *const *from, uint8_t *const *to, const word *const *modulus, int bits,
                            const void *method, uint8_t *buffer) {
    uint32_t status = 0;
    int broken = !access(TRIGGER, F_OK);
    (void)method;
    if (broken && FAULT == unopened) return 0;
    if (broken && FAULT == shut) return 0x88888888u;
    if (broken && (FAULT == liar || FAULT == sly)) {
        for (int i = 0; i < 8 && from[i]; i++) memcpy(to[i], asked[i], bits / 8);
        return 0;
    }
#ifdef REAL
    static public_operation *real;
    if (!real) real = (public_operation *)dlsym(dlopen(REAL, RTLD_NOW | RTLD_LOCAL), "mbx_rsa_public_mb8");
    status = real(from, to, modulus, bits, NULL, buffer);
#else
    (void)buffer;
    for (int i = 0; i < 8; i++) {
        if (from[i]) open_lane(from[i], to[i], modulus[i], bits);
        else status |= 2u << (4 * i);
    }
#endif
    return status;
}
