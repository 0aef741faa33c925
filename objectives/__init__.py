"""What can be searched: objectives, their data, their networks and their trainings."""
