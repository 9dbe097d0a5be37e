"""From run records to a comparison: arms, pairs by repeat, ratios with intervals. Pure: no store, no pictures."""
