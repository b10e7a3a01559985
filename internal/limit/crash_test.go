package limit

const childLedger = "ARGYLE_TEST_LEDGER"

func countForEver(path string) {}
