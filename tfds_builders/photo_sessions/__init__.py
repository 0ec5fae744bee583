"""Customer-service sessions made up around your own photos, whose folders say what they show."""
