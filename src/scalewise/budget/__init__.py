"""What may be spent and what was: budgets, decisions, MACs, and what a budget costs in quality and seconds."""
