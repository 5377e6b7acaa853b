"""What judges texts: functions, classifiers, programs."""
