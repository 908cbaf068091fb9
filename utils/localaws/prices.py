"""What AWS asks for an instance: on-demand list prices in us-west-2, US dollars for an hour of one.

The same for training, endpoints and transforms. https://aws.amazon.com/sagemaker/ai/pricing/ has today's.
"""

PRICES_AS_OF = "November 2026"
PRICES = {
    "ml.c5.large": 0.102,
    "ml.c5.xlarge": 0.204,
    "ml.c5.2xlarge": 0.408,
    "ml.m5.large": 0.115,
    "ml.m5.xlarge": 0.23,
    "ml.m5.2xlarge": 0.461,
    "ml.m5.4xlarge": 0.922,
    "ml.g4dn.xlarge": 0.736,
    "ml.g5.xlarge": 1.408,
}
