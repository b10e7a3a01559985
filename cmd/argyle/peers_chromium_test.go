//go:build linux

package main

import (
	"context"
	"os"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
)

func TestChromium(t *testing.T) {
	t.Parallel()
	chromium := peer(t, "chromium")
	s := startServer(t)
	for _, scheme := range []string{"socks5", "http"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			dest := websiteAs(t, "localhost")
			if got := browse(t, chromium, scheme+"://"+s.addr, "http://"+dest+"/"); got != page {
				t.Errorf("Chromium shows %q", got)
			}
			s.sessionTo(t, dest)
		})
	}
}

// browse returns the text that a browser behind a proxy shows for a page.
func browse(t *testing.T, chromium, proxy, url string) string {
	t.Helper()
	folder := t.TempDir()
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(chromium), chromedp.UserDataDir(folder), chromedp.Env("TMPDIR="+folder, "HOME="+folder),
		chromedp.ProxyServer(proxy),
		chromedp.Flag("proxy-bypass-list", "<-loopback>"), // or loopback goes around the proxy
		// What the browser would ask its maker for. Nothing leaves this machine, but it would cost time and log lines.
		chromedp.Flag("gaia-url", "http://127.0.0.1:9/"),
		chromedp.Flag("component-updater", "url-source=http://127.0.0.1:9/"),
		chromedp.Flag("disable-features", "OptimizationHints,NetworkTimeServiceQuerying,Translate"))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	allocator, end := chromedp.NewExecAllocator(t.Context(), options...)
	defer end()
	browser, closeTab := chromedp.NewContext(allocator)
	defer closeTab()
	if err := chromedp.Do(browser); err != nil { // the browser lives as long as this context, so it has no deadline
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(browser, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	text, err := chromedp.Run(ctx, chromedp.Text("body"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
