"""Is the predictor's memory flat over 100,000 requests?"""
