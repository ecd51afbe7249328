"""Losses: pure functions of flat answer-position tensors, which return per-row sums and counts.

In their formulas, for a question x and a position of the response a to it:

    z, z_t, z_ref   raw logits: of the student, of the instructed teacher, of the untouched model
    a, p            the response token, its probability under the student
    |a|, L          length of the response, its negative log-likelihood under the student
    r               log p(a|x) - log p_ref(a|x) over the whole response
    h, h_ref        hidden states of the student and of the untouched model
    V, H            vocabulary, hidden size
    CE(q, s)        - sum over V of q log s
    A, B            matrices of a layer's adapter, [r, in] and [out, r]; its update is scaling * B A

The student reads x, a prefill if there is one, and a so far, without an instruction; the teacher reads an instruction,
x and a so far. Teacher and untouched model carry no gradient, nor does a choice of ids.
"""
