"""Networks with exits, and several networks behind one router: cheapest first."""
