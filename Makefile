# Two commands for everybody (demo, test), the others for whoever changes the code.
.PHONY: demo test test-deps check figures mutants fuzz schedules bench menagerie reliability soak

demo:
	@scripts/bootstrap demo
	@scripts/demo

test:
	@scripts/bootstrap test
	@scripts/bootstrap oldest
	@scripts/test

# Unit tests and contracts with the oldest and the newest dependencies: ten minutes.
test-deps:
	@scripts/bootstrap test
	@scripts/bootstrap oldest
	@scripts/bootstrap newest
	@scripts/test deps

check:
	@scripts/bootstrap test
	@scripts/test checks

# The code's shape: files per 1,000 lines, comments, names that stand for two things.
figures:
	@scripts/bootstrap test
	@.venv/bin/python -m tests.figures

# Breaks one line of the core at a time, in a copy, and runs the tests that must notice
# it: see tests/mutants.toml. ONLY="lease writequeue" takes those with one of the words.
mutants:
	@scripts/bootstrap test
	@scripts/mutants $(ONLY)

# Fuzzes each parser of bytes from outside in turn, guided by coverage: MINUTES=60 for all
# together, ONLY="sftp vault" for those with one of the words (docs/decisions.md, Fuzzing).
fuzz:
	@scripts/bootstrap test
	@scripts/bootstrap fuzz
	@nice -n 19 .venv/bin/python -m tests.fuzz.run --minutes $(or $(MINUTES),10) $(ONLY)

# Random schedules of programs, faults and reconnects over the whole stack in process;
# `make test` plays the first 1,000. COUNT=10000 FIRST=1000 for others.
schedules:
	@scripts/bootstrap test
	@.venv/bin/python -m tests.model.schedules --count $(or $(COUNT),10000) --first $(or $(FIRST),1000)

# Each night: all servers of the field, and the table in docs/servers.md.
menagerie:
	@scripts/bootstrap menagerie
	@scripts/menagerie

# What becomes of programs when a PAM or a network cuts, beside sshfs: half an hour.
# ONLY=silent takes the cases with that word.
reliability:
	@scripts/bootstrap test
	@scripts/bootstrap bench
	@scripts/reliability $(ONLY)

# Mixed programs on ten targets, a fault every five seconds: MINUTES=30.
soak:
	@scripts/bootstrap test
	@scripts/soak --minutes $(or $(MINUTES),2)

# QUICK=1 for five minutes instead of thirty.
bench:
	@scripts/bootstrap bench
	@scripts/bench $(if $(QUICK),--quick)
