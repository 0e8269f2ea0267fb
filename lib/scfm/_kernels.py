"""The loops behind `scfm.tokenize`, compiled by numba: one call handles the cells `first` to `last` and releases the GIL.

They run in ordinary threads (see `scfm.tokenize.in_threads`), so no numba threading layer is started, a fork stays safe and
the compiled code comes from numba's cache (`NUMBA_CACHE_DIR`) in milliseconds.
"""

from __future__ import annotations

import numpy as np
from numba import njit

N_BUCKETS = 4096  # of the rank sort: about two genes of a cell share a bucket
LONG_BUCKET = 24  # from here on sorting a bucket by insertion would be slow


@njit(cache=True, nogil=True, error_model="numpy")
def census(indptr, indices, data, column_token, first, last, n_genes, row_sum, bad):
    """Count per cell the genes that have a token (a stored zero is no gene) and sum its counts; count unusable values.

    bad: int64 (3,): values that are not finite, negative, fractional.
    """
    not_finite = 0
    negative = 0
    fractional = 0
    for cell in range(first, last):
        n = 0
        total = 0.0
        for j in range(indptr[cell], indptr[cell + 1]):
            x = np.float64(data[j])
            total += x
            n += x != 0.0 and column_token[indices[j]] >= 0
            fractional += x != np.rint(x)
            negative += x < 0.0
            not_finite += not np.isfinite(x)
        n_genes[cell] = n
        row_sum[cell] = total
    bad[0] += not_finite
    bad[1] += negative
    bad[2] += fractional


@njit(cache=True, nogil=True, inline="always")
def _comes_first(a, b, value, token):
    """The order of a rank encoding: the larger value first; of equal values, the smaller token id."""
    return value[a] > value[b] or (value[a] == value[b] and token[a] < token[b])


@njit(cache=True, nogil=True)
def _heap_sort(order, low, high, value, token):
    """Sort order[low:high] in place; for the rare bucket in which many genes (nearly) tie."""
    n = high - low
    for end in range(n - 1 + n // 2, 0, -1):  # first build the heap, then take its top, again and again
        if end >= n:
            root, size = end - n, n
        else:
            order[low], order[low + end] = order[low + end], order[low]
            root, size = 0, end
        while True:
            child = 2 * root + 1
            if child >= size:
                break
            if child + 1 < size and _comes_first(order[low + child], order[low + child + 1], value, token):
                child += 1
            if not _comes_first(order[low + root], order[low + child], value, token):
                break
            order[low + root], order[low + child] = order[low + child], order[low + root]
            root = child


@njit(cache=True, nogil=True, error_model="numpy")
def rank(indptr, indices, data, n_counts, column_token, column_median, first, last, offsets, tokens, cls, eos):
    """Write the tokens of each cell, by decreasing value, into tokens[offsets[cell]:offsets[cell + 1]].

    The room between the offsets says how many genes are kept. Genes are first thrown into buckets by the leading bits of
    their value in float32, then each bucket is put in exact order by the float64 values.
    """
    longest = 1
    for cell in range(first, last):
        longest = max(longest, indptr[cell + 1] - indptr[cell])
    value = np.empty(longest, np.float64)
    single = np.empty(longest, np.float32)
    bits = single.view(np.uint32)  # positive floats are ordered as their bits are
    token = np.empty(longest, np.int32)
    order = np.empty(longest, np.int32)
    start = np.empty(N_BUCKETS + 1, np.int64)

    for cell in range(first, last):
        out = offsets[cell]
        room = offsets[cell + 1] - out
        if cls >= 0:
            tokens[out] = cls
            out += 1
            room -= 1
        if eos >= 0:
            tokens[offsets[cell + 1] - 1] = eos
            room -= 1

        n = 0
        depth = np.float64(n_counts[cell])
        least = np.uint32(0xFFFFFFFF)
        most = np.uint32(0)
        for j in range(indptr[cell], indptr[cell + 1]):
            column = indices[j]
            x = np.float64(data[j])
            if x != 0.0 and column_token[column] >= 0:
                value[n] = x / depth * 1e4 / column_median[column]  # upstream's arithmetic, in upstream's order
                token[n] = column_token[column]
                single[n] = value[n]
                least = min(least, bits[n])
                most = max(most, bits[n])
                n += 1
        if n == 0:
            continue

        shift = 0
        while (most - least) >> shift >= N_BUCKETS:
            shift += 1
        start[:] = 0
        for i in range(n):
            start[((most - bits[i]) >> shift) + 1] += 1
        n_buckets = N_BUCKETS
        for bucket in range(N_BUCKETS):
            if start[bucket] >= room:  # the cell is full: later buckets are cut off
                n_buckets = bucket
                break
            start[bucket + 1] += start[bucket]
        for i in range(n):
            bucket = (most - bits[i]) >> shift
            if bucket < n_buckets:
                order[start[bucket]] = i
                start[bucket] += 1  # becomes the end of its bucket

        low = 0
        for bucket in range(n_buckets):
            high = start[bucket]
            if high - low > LONG_BUCKET:
                _heap_sort(order, low, high, value, token)
            else:
                for i in range(low + 1, high):
                    gene = order[i]
                    k = i
                    while k > low and _comes_first(gene, order[k - 1], value, token):
                        order[k] = order[k - 1]
                        k -= 1
                    order[k] = gene
            low = high
        for i in range(room):
            tokens[out + i] = token[order[i]]
