package wire_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

func TestQueryList(t *testing.T) {
	form := url.Values{
		"Tags.1.Key": {"a"}, "Tags.1.Value": {"b"}, "Tags.2.Key": {"c"}, "Tags.4.Key": {"after a gap"},
		"Names.1": {"x"}, "Names.10": {"not the first"}, "NamesToo.1": {"other"},
	}
	if d := cmp.Diff([]url.Values{{"Key": {"a"}, "Value": {"b"}}, {"Key": {"c"}}}, wire.QueryList(form, "Tags")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]url.Values{{"": {"x"}}}, wire.QueryList(form, "Names")); d != "" {
		t.Error(d)
	}
}

func TestServeJSON(t *testing.T) {
	type in struct{ Name string }
	operations := map[string]wire.JSONOperation{
		"Greet": wire.JSON(func(_ context.Context, in in) (map[string]string, error) {
			switch in.Name {
			case "":
				return nil, &wire.Error{Code: "NoName", QueryCode: "AWS.NoName", Message: "who?"}
			case "broken":
				return nil, errors.New("broken")
			}
			return map[string]string{"Hello": in.Name}, nil
		}),
		"Nothing": wire.NoOutput(func(context.Context, in) error { return nil }),
	}
	for _, c := range []struct {
		operation, body string
		status          int
		want, legacy    string
	}{
		{"Greet", `{"Name":"x"}`, 200, `{"Hello":"x"}`, ""},
		{"Greet", `{}`, 400, `{"__type":"NoName","message":"who?"}`, "AWS.NoName;Sender"},
		{"Greet", `{"Name":"broken"}`, 500, `{"__type":"InternalFailure","message":"broken"}`, ""},
		{"Nothing", ``, 200, ``, ""},
		{"Other", ``, 400, `{"__type":"UnknownOperationException","message":"localaws does not model Service.Other"}`, ""},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.body))
		r.Header.Set("X-Amz-Target", "Service."+c.operation)
		w := httptest.NewRecorder()
		wire.ServeJSON(w, r, operations)
		if w.Code != c.status || w.Body.String() != c.want || w.Header().Get("X-Amzn-Query-Error") != c.legacy {
			t.Errorf("%s %s: %d %s %v", c.operation, c.body, w.Code, w.Body, w.Header())
		}
	}
}

func TestQueryErrorIsEscaped(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("Action=<x>"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	wire.ServeQuery(w, r, "ns", nil)
	if w.Code != 400 || strings.Contains(w.Body.String(), "<x>") || !strings.Contains(w.Body.String(), "<Code>InvalidAction</Code>") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestRoleARN(t *testing.T) {
	for arn, want := range map[string]string{
		"arn:aws:sts::111122223333:assumed-role/Deploy/alice": "arn:aws:iam::111122223333:role/Deploy",
		"arn:aws:iam::111122223333:user/alice":                "arn:aws:iam::111122223333:user/alice",
	} {
		if got := (wire.Caller{AccountID: "111122223333", ARN: arn}).RoleARN(); got != want {
			t.Errorf("%s: %s, want %s", arn, got, want)
		}
	}
}
