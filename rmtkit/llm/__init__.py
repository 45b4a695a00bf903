"""Any large language model on BABILong: prompts, models, retrieval, results.

Kuratov et al. 2024 (2402.10790, section 5; 2406.10149): large language models miss what a recurrent memory finds.
"""
