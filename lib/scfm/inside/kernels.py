"""The loops behind `scfm.tokenize`, compiled by numba: one call handles the cells `first` to `last` and releases the GIL.

They run in ordinary threads (see `scfm.tokenize.in_threads`), so no numba threading layer is started, a fork stays safe and
the compiled code comes from numba's cache (`NUMBA_CACHE_DIR`) in milliseconds.
"""

from __future__ import annotations

import numpy as np

from scfm.inside import numbacache

numbacache.choose()  # before numba is imported

from numba import njit  # noqa: E402

RADIX_BITS = 11  # of each of the two passes of the rank sort
RADIX = 1 << RADIX_BITS
MOST_TALLIED = 4095  # larger counts are sorted, not tallied
LONG_RUN = 24  # from here on sorting by insertion would be slow


# A column's token: >= 0 its gene's; -1 not in the vocabulary; <= -2 its gene has several columns, and it is group -2 - token.


@njit(cache=True, nogil=True, error_model="numpy")
def census(indptr, indices, data, column_token, n_groups, first, last, n_genes, row_sum, kept_sum, bad):
    """Per cell: the genes that have a token (a stored zero is no gene), all its counts, the counts of those genes.

    bad: int64 (4,): values that are not finite, negative, fractional; entries out of the order of the columns.
    """
    counted_in = np.full(n_groups, -1, np.int64)
    not_finite = 0
    negative = 0
    fractional = 0
    unsorted = 0
    for cell in range(first, last):
        n = 0
        total = 0.0
        kept = 0.0
        previous = -1
        for j in range(indptr[cell], indptr[cell + 1]):
            x = np.float64(data[j])
            column = indices[j]
            token = column_token[column]
            total += x
            if token != -1:
                kept += x
                if token >= 0:
                    n += x != 0.0
                elif x != 0.0 and counted_in[-2 - token] != cell:
                    counted_in[-2 - token] = cell
                    n += 1
            fractional += x != np.rint(x)
            negative += x < 0.0  # type: ignore[assignment]
            not_finite += not np.isfinite(x)
            unsorted += column <= previous
            previous = column
        n_genes[cell] = n
        row_sum[cell] = total
        kept_sum[cell] = kept
    bad[0] += not_finite
    bad[1] += negative
    bad[2] += fractional
    bad[3] += unsorted


@njit(cache=True, nogil=True, inline="always")
def _comes_first(a, b, value, token):
    """The order of a rank encoding: the larger value first; of equal values, the smaller token id."""
    return value[a] > value[b] or (value[a] == value[b] and token[a] < token[b])


@njit(cache=True, nogil=True)
def _heap_sort(order, low, high, value, token):
    """Sort order[low:high] in place; for the rare cell in which many genes (nearly) tie."""
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


@njit(cache=True, nogil=True)
def _sort_run(order, low, high, value, token):
    """Put order[low:high], whose keys are equal, into exact order."""
    if high - low > LONG_RUN:
        _heap_sort(order, low, high, value, token)
        return
    for i in range(low + 1, high):
        gene = order[i]
        k = i
        while k > low and _comes_first(gene, order[k - 1], value, token):
            order[k] = order[k - 1]
            k -= 1
        order[k] = gene


@njit(cache=True, nogil=True)
def _sort_genes(order, room, n, value, token, bits, most, least, pairs, swapped, digits):
    """Fill order[:room] with the indices of value[:n], largest first.

    A radix sort in two passes on the leading 22 bits that the cell's values differ in (bits of float32), then an exact
    comparison of the float64 values wherever these bits are equal.
    """
    shift = np.uint32(0)
    while (most - least) >> shift >= RADIX * RADIX:
        shift += np.uint32(1)
    digits[:] = 0
    for i in range(n):
        key = (most - bits[i]) >> shift
        pairs[i] = np.uint64(key) << np.uint64(32) | np.uint64(i)
        digits[0, key & np.uint32(RADIX - 1)] += 1
        digits[1, key >> np.uint32(RADIX_BITS)] += 1
    low_start = 0
    high_start = 0
    for digit in range(RADIX):
        digits[0, digit], low_start = low_start, low_start + digits[0, digit]
        digits[1, digit], high_start = high_start, high_start + digits[1, digit]
    for i in range(n):
        digit = (pairs[i] >> np.uint64(32)) & np.uint64(RADIX - 1)
        swapped[digits[0, digit]] = pairs[i]
        digits[0, digit] += 1
    for i in range(n):
        digit = swapped[i] >> np.uint64(32 + RADIX_BITS)
        pairs[digits[1, digit]] = swapped[i]
        digits[1, digit] += 1

    for i in range(n):
        order[i] = np.int32(pairs[i] & np.uint64(0xFFFFFFFF))
    low = 0
    for i in range(1, n + 1):
        if i == n or pairs[i] >> np.uint64(32) != pairs[low] >> np.uint64(32):
            if i - low > 1:
                _sort_run(order, low, i, value, token)
            low = i
            if low >= room:
                break


@njit(cache=True, nogil=True, error_model="numpy")
def rank(
    indptr, indices, data, n_counts, column_token, column_median, group_token, first, last, offsets, tokens, cls, eos
):
    """Write the tokens of each cell, by decreasing value, into tokens[offsets[cell]:offsets[cell + 1]].

    The room between the offsets says how many genes are kept.
    """
    longest = 1
    for cell in range(first, last):
        longest = max(longest, indptr[cell + 1] - indptr[cell])
    value = np.empty(longest, np.float64)
    single = np.empty(longest, np.float32)
    bits = single.view(np.uint32)  # positive floats are ordered as their bits are
    token = np.empty(longest, np.int32)
    order = np.empty(longest, np.int32)
    pairs = np.empty(longest, np.uint64)
    swapped = np.empty(longest, np.uint64)
    digits = np.empty((2, RADIX), np.int32)
    n_groups = len(group_token)
    seen_in = np.full(n_groups, -1, np.int64)  # the last cell that had this gene, where in its list, how many counts
    place = np.empty(n_groups, np.int64)
    summed = np.empty(n_groups, np.float64)

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
            gene = column_token[column]
            if x == 0.0 or gene == -1:
                continue
            i = n
            if gene < -1:  # several columns are this gene: their counts are summed
                group = -2 - gene
                gene = group_token[group]
                if seen_in[group] == cell:
                    i = place[group]
                    x += summed[group]
                seen_in[group] = cell
                place[group] = i
                summed[group] = x
            value[i] = x / depth * 1e4 / column_median[column]  # upstream's arithmetic, in upstream's order
            token[i] = gene
            single[i] = value[i]
            least = min(least, bits[i])
            most = max(most, bits[i])
            n += i == n
        if n > 0:
            _sort_genes(order, room, n, value, token, bits, most, least, pairs, swapped, digits)
        for i in range(room):
            tokens[out + i] = token[order[i]]


@njit(cache=True, nogil=True)
def _between(a, b, t):
    """numpy's interpolation, step by step, so that the last bit is the same."""
    return b - (b - a) * (1 - t) if t >= 0.5 else a + (b - a) * t


@njit(cache=True, nogil=True)
def _edges_of_counts(n_up_to, quantiles, edges, left, right):
    """Bin edges from n_up_to[c] = number of values <= c; for each count its L and R."""
    top = len(n_up_to) - 1
    n = n_up_to[top]
    a = 1
    b = 1
    for k in range(len(quantiles)):
        virtual = quantiles[k] * (n - 1)
        below = min(int(virtual), n - 1)
        while n_up_to[a] <= below:  # the values below and above this place in the sorted row, without sorting it
            a += 1
        while n_up_to[b] <= min(below + 1, n - 1):
            b += 1
        edges[k] = _between(float(a), float(b), virtual - below)
    at_most = 0
    less = 0
    for count in range(1, top + 1):
        while less < len(edges) and edges[less] < count:
            less += 1
        at_most = max(at_most, less)
        while at_most < len(edges) and edges[at_most] <= count:
            at_most += 1
        left[count] = at_most
        right[count] = less


@njit(cache=True, nogil=True)
def _edges_of_values(value, n, quantiles, edges):
    """Bin edges of value[:n], which need not be whole: numpy's linear quantiles."""
    ascending = np.sort(value[:n])
    for k in range(len(quantiles)):
        virtual = quantiles[k] * (n - 1)
        below = min(int(virtual), n - 1)
        edges[k] = _between(ascending[below], ascending[min(below + 1, n - 1)], virtual - below)


@njit(cache=True, nogil=True)
def bin_values(value, n, whole, tally, quantiles, randomly, edges, left, right, bins):
    """The bin of each of value[:n], all above zero: scGPT's quantile bins, 1 to len(quantiles).

    L = number of edges <= x, R = number of edges < x; the bin is L or, randomly, ceil(u * (R - L) + L).
    Counts (whole) are few and small: their tally does what else a sort would. It becomes its own running sum.
    """
    if n == 0:
        return
    if whole:
        for count in range(1, len(tally)):
            tally[count] += tally[count - 1]
        _edges_of_counts(tally, quantiles, edges, left, right)
        if not randomly:
            for i in range(n):
                bins[i] = left[int(value[i])]
            return
    else:
        _edges_of_values(value, n, quantiles, edges)
    for i in range(n):
        if whole:
            high = left[int(value[i])]
            low = right[int(value[i])]
        else:
            high = np.searchsorted(edges, value[i], side="right")
            low = np.searchsorted(edges, value[i], side="left")
        if randomly:
            bins[i] = np.ceil(np.random.random() * (low - high) + high)  # noqa: NPY002 (numba's own, seeded below)
        else:
            bins[i] = high


@njit(cache=True, nogil=True)
def _mix(word):
    """Bits of a 64-bit word, thoroughly mixed (splitmix64's finisher, Steele et al. 2014, 10.1145/2660193.2660195)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@njit(cache=True, nogil=True)
def _sample_keys(token, value, n, seed):
    """A random key for each of a cell's genes: it goes by what the cell holds, not by the order of rows or columns."""
    own = np.empty(n, np.uint64)
    cell = _mix(np.uint64(seed))
    for i in range(n):
        own[i] = _mix(np.uint64(token[i]) + np.uint64(0x9E3779B97F4A7C15))
        cell += _mix(own[i] + np.uint64(np.int64(value[i] * 1024.0)))  # a sum: the same in any order
    for i in range(n):
        own[i] = _mix(own[i] ^ cell)
    return own


@njit(cache=True, nogil=True)
def encode_bins(
    indptr, indices, data, column_token, n_genes, quantiles, scale_to, log1p, zeros, cls, seed, sample_seed,
    first, last, offsets, tokens, values,
):  # fmt: skip
    """Write tokens and values of each cell: <cls> with 0, then the genes in the order of their columns.

    No quantiles: the values stay unbinned. Where there are more genes than room, a random sample is kept; it goes by the
    genes and values of the cell, so it is the same in any row, file or shard and in any order of columns.
    """
    n_columns = len(column_token)
    value = np.empty(n_columns, np.float64)
    spare_token = np.empty(n_columns, np.int32)
    spare_bins = np.empty(n_columns, np.float32)
    dense = np.zeros(n_columns if zeros else 0, np.float64)
    edges = np.empty(len(quantiles), np.float64)
    n_up_to = np.zeros(MOST_TALLIED + 1, np.int32)  # first a tally of each count, then its running sum
    top = 0
    left = np.empty(MOST_TALLIED + 1, np.float32)
    right = np.empty(MOST_TALLIED + 1, np.float32)

    for cell in range(first, last):
        out = offsets[cell]
        if cls >= 0:
            tokens[out] = cls
            values[out] = 0.0
            out += 1
        room = offsets[cell + 1] - out
        sampled = n_genes[cell] > room
        token = spare_token if sampled or zeros else tokens[out : out + room]
        bins = spare_bins if sampled or zeros else values[out : out + room]

        n = 0
        total = 0.0
        n_up_to[: top + 1] = 0  # of the cell before
        top = 0
        whole = True
        for j in range(indptr[cell], indptr[cell + 1]):
            x = np.float64(data[j])
            if x != 0.0 and column_token[indices[j]] >= 0:
                value[n] = x
                token[n] = indices[j] if zeros else column_token[indices[j]]
                total += x
                n += 1
                count = int(min(x, MOST_TALLIED))
                n_up_to[count] += 1
                top = max(top, count)
                whole &= x == count
        if len(quantiles) > 0:
            if seed >= 0:
                np.random.seed(seed)  # noqa: NPY002 (again for each cell: its bins do not depend on the cells before it)
            bin_values(value, n, whole, n_up_to[: top + 1], quantiles, seed >= 0, edges, left, right, bins)
        else:
            for i in range(n):
                x = value[i] / total * scale_to if scale_to > 0.0 else value[i]
                bins[i] = np.log1p(x) if log1p else x
        if zeros:  # all genes of the vocabulary, in the order of the columns
            for i in range(n):
                dense[token[i]] = bins[i]
            n = 0
            for column in range(n_columns):
                if column_token[column] >= 0:
                    token[n] = column_token[column]
                    bins[n] = dense[column]
                    n += 1
            dense[:] = 0.0
            if not sampled:
                tokens[out : out + n] = token[:n]
                values[out : out + n] = bins[:n]
        if sampled:  # those with the smallest keys
            keys = _sample_keys(token, bins, n, sample_seed)
            last_key = np.partition(keys, room - 1)[room - 1]
            taken = 0
            for i in range(n):
                if keys[i] <= last_key:
                    tokens[out + taken] = token[i]
                    values[out + taken] = bins[i]
                    taken += 1
