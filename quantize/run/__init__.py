"""One run: the job, the work folder, the steps, their costs, and the pipeline over them."""
