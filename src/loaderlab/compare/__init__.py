"""From run records to a comparison: arms, pairs by round, ratios with intervals. Pure: no store, no pictures."""
