// Package process lets a program run under us as if the shell had started it
// itself: it gets the signals that are sent to us, we stop when it stops, and we
// end as it ends. It needs Linux, and knows nothing of how the program is started,
// but that it is a child of ours in our process group.
//
//	signals := process.Catch()
//	defer signals.Stop()
//	pid, err := start()
//	status, err := signals.Wait(pid, false)
//	status.Exit()
package process
