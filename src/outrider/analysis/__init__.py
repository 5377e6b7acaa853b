"""Questions about drafting that are answered from measurements, without a model."""
