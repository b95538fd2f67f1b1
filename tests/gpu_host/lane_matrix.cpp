/* lane_matrix: small floats and the matrix unit's stand-ins, by the layouts told in dialect.cuh. */
#include "lanes.h"

#include "quant/float_formats.h"

float half_bits_to_float(uint16_t h) { return half_to_float(h); }
uint16_t float_to_half_bits(float f) { return float_to_half(f); }

/* ---- products --------------------------------------------------------------------------
 *
 * The first lane that wakes makes the warp's 16x8 products, for all. As floats whatever the numbers are: sums
 * of 32 products of bytes are whole numbers that a float holds. Each is summed in the order of its index. */

struct fragments { uint32_t a[4], b[2]; };
struct products { float at[16][8]; };

static float float_of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

struct bytes  { enum { EACH = 4 }; static float number(uint32_t w, int i) { return static_cast<int8_t>(w >> (8 * i)); } };
struct halves { enum { EACH = 2 }; static float number(uint32_t w, int i) { return half_to_float(static_cast<uint16_t>(w >> (16 * i))); } };
struct bhalves { enum { EACH = 2 }; static float number(uint32_t w, int i) { return float_of_bits(w >> (16 * i) << 16); } };
struct tf32s  { enum { EACH = 1 }; static float number(uint32_t w, int) { return float_of_bits(w & 0xffffe000u); } };

/* KIND's numbers, EACH of a register; a has A registers, half of them for rows 8 to 15, b half as many. */
template <class KIND, int A> static void multiply(const uint8_t *slots, void *made)
{
    enum { EACH = KIND::EACH, DEPTH = A / 2 * 4 * EACH };
    float a[16][DEPTH], b[DEPTH][8];
    for (int lane = 0; lane < 32; lane++) {
        const fragments f = lane_slot<fragments>(slots, lane);
        const int g = lane / 4, i = lane % 4;
        for (int r = 0; r < A; r++)
            for (int n = 0; n < EACH; n++)
                a[g + 8 * (r % 2)][EACH * (i + 4 * (r / 2)) + n] = KIND::number(f.a[r], n);
        for (int r = 0; r < A / 2; r++)
            for (int n = 0; n < EACH; n++) b[EACH * (i + 4 * r) + n][g] = KIND::number(f.b[r], n);
    }
    products *p = static_cast<products *>(made);
    for (int row = 0; row < 16; row++) {
        float sum[8] = {};
        for (int k = 0; k < DEPTH; k++)
            for (int col = 0; col < 8; col++) sum[col] += a[row][k] * b[k][col];
        memcpy(p->at[row], sum, sizeof sum);
    }
}

/* Adds the four products of this lane. */
template <class KIND, int A, class T> static void mma(const char *what, T d[4], const uint32_t *a, const uint32_t *b)
{
    fragments f = {};
    memcpy(f.a, a, sizeof(uint32_t) * A);
    memcpy(f.b, b, sizeof(uint32_t) * (A / 2));
    const products *p = static_cast<const products *>(lane_exchange_once(what, &f, sizeof f, multiply<KIND, A>, sizeof *p));
    const int g = lane_of_warp() / 4, i = lane_of_warp() % 4;
    for (int k = 0; k < 4; k++) d[k] += static_cast<T>(p->at[g + 8 * (k / 2)][2 * i + k % 2]);
}

void mma_s8_k32(int32_t d[4], const uint32_t a[4], const uint32_t b[2]) { mma<bytes, 4>("mma s8 k32", d, a, b); }
void mma_s8_k16(int32_t d[4], const uint32_t a[2], const uint32_t b[1]) { mma<bytes, 2>("mma s8 k16", d, a, b); }
void mma_f16_k16(float d[4], const uint32_t a[4], const uint32_t b[2]) { mma<halves, 4>("mma f16", d, a, b); }
void mma_bf16_k16(float d[4], const uint32_t a[4], const uint32_t b[2]) { mma<bhalves, 4>("mma bf16", d, a, b); }
void mma_tf32_k8(float d[4], const uint32_t a[4], const uint32_t b[2]) { mma<tf32s, 4>("mma tf32", d, a, b); }

/* ---- matrices from shared memory ----------------------------------------------------------- */

/* A lane gives its row's bytes as they are when it comes here. */
static const uint8_t *rows_of_matrices(const char *what, const void *row)
{
    if (reinterpret_cast<uintptr_t>(row) % 16) lane_fail("a matrix row that is not aligned to 16 bytes");
    uint8_t own[16];
    memcpy(own, row, sizeof own);
    return lane_exchange(what, own, sizeof own);
}

static uint32_t matrix_number(const uint8_t *s, int matrix, int row, int col)
{
    uint16_t n;
    memcpy(&n, s + LANE_SLOT * (8 * matrix + row) + 2 * col, sizeof n);
    return n;
}

void load_matrices(uint32_t d[4], const void *row)
{
    const uint8_t *s = rows_of_matrices("load_matrices", row);
    const int g = lane_of_warp() / 4, i = lane_of_warp() % 4;
    for (int m = 0; m < 4; m++) d[m] = matrix_number(s, m, g, 2 * i) | matrix_number(s, m, g, 2 * i + 1) << 16;
}
void load_matrices_turned(uint32_t d[4], const void *row)
{
    const uint8_t *s = rows_of_matrices("load_matrices_turned", row);
    const int g = lane_of_warp() / 4, i = lane_of_warp() % 4;
    for (int m = 0; m < 4; m++) d[m] = matrix_number(s, m, 2 * i, g) | matrix_number(s, m, 2 * i + 1, g) << 16;
}
