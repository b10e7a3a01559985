// Package limit bounds what a user, a client's network, a rule or the whole
// server may use: sessions at once, new sessions, bytes per second, and bytes
// per hour, day, week or month.
//
// A [Table] keeps a [Limit] for each of them, so that counts outlast a reload
// of the configuration, and a [Ledger] keeps the quotas across restarts:
//
//	ledger, err := limit.OpenLedger("/var/lib/argyle/quota.db")
//	if err != nil {
//		return err
//	}
//	defer ledger.Close()
//	go ledger.Run(ctx)
//	limits := &limit.Table{Ledger: ledger}
//	ann := limits.For(limit.User, "ann", limit.Spec{
//		Sessions: 10,
//		Down:     1_250_000, // 10 Mbit/s
//		Quota:    10e9, QuotaPeriod: limit.Day,
//	})
//	share, err := ann.Begin(req)
package limit
