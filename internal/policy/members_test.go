package policy

import (
	"slices"
	"testing"

	"github.com/argyle-socks/argyle"
)

func TestMembers(t *testing.T) {
	for _, c := range []struct {
		req  argyle.Request
		want []string
	}{
		{argyle.Request{}, nil},
		{argyle.Request{User: "ann"}, []string{"ann"}},
		{
			argyle.Request{User: "ann@A.TEST", Auth: argyle.AuthGSSAPI, Groups: []string{"sid:S-1-5"}},
			[]string{"ann@A.TEST", "*@A.TEST", "sid:S-1-5"},
		},
		// An e-mail address is of no realm.
		{argyle.Request{User: "ann@A.TEST", Auth: argyle.AuthCertificate}, []string{"ann@A.TEST"}},
		{argyle.Request{User: "ann@A.TEST", Auth: argyle.AuthPassword}, []string{"ann@A.TEST"}},
		{argyle.Request{User: "sid:S-1-5", Auth: argyle.AuthCertificate}, nil}, // a name is no group
	} {
		if got := slices.Collect(Members(&c.req)); !slices.Equal(got, c.want) {
			t.Errorf("%+v is %q, want %q", c.req, got, c.want)
		}
	}
}
