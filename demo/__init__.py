"""The guided tour: the main job on a real grid client, and the small servers it needs."""
