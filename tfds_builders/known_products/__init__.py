"""Made-up customer-service sessions whose answers stand in a knowledge base."""
