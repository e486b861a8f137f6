"""What is minimised: functions of (model, batch, context)."""
