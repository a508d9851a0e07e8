# Two commands for everybody (demo, test), one for whoever changes the code (check).
.PHONY: demo test check

demo:
	@scripts/bootstrap demo
	@scripts/demo

test:
	@scripts/bootstrap test
	@scripts/test

check:
	@scripts/bootstrap test
	@scripts/test checks
