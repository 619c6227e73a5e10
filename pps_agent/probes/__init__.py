"""The probe side: find probes, run them contained, understand what they say."""
