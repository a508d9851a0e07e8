# Two commands for everybody (demo, test), two for whoever changes the code.
.PHONY: demo test check bench

demo:
	@scripts/bootstrap demo
	@scripts/demo

test:
	@scripts/bootstrap test
	@scripts/test

check:
	@scripts/bootstrap test
	@scripts/test checks

# QUICK=1 for five minutes instead of thirty.
bench:
	@scripts/bootstrap bench
	@scripts/bench $(if $(QUICK),--quick)
