"""What a plan says to people: tables, explanations and pictures, all from a `PlanRecord` alone."""
