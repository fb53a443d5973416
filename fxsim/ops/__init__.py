"""Operations on tensors of fixed-point codes; each is an exact result that is rounded once."""
