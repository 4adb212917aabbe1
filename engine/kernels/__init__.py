"""Operations of a transformer, each fused into one Triton kernel a direction."""
