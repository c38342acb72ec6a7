package envelope

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRules(t *testing.T) {
	rules := Rules{Required: []string{"tenant", "purpose"}, Values: map[string][]string{"purpose": {"invoices", "backups"}, "stage": {"test"}}}
	for _, tt := range []struct {
		rules   Rules
		context map[string]string
		want    []string // parts of the error; none means that there is none
	}{
		{Rules{}, map[string]string{"any": "thing"}, nil},
		{Rules{}, nil, []string{"empty"}},
		{Rules{}, map[string]string{}, []string{"empty"}},
		{Rules{}, map[string]string{"": "x"}, []string{"no name"}},
		{Rules{}, map[string]string{"x": ""}, []string{`"x" is empty`}},
		{Rules{}, map[string]string{"x": "\xff"}, []string{`"x" is not UTF-8`}},
		{Rules{}, map[string]string{"\xff": "x"}, []string{`"\xff" is not UTF-8`}},
		{Rules{}, map[string]string{"x": strings.Repeat("x", maxContextSize)}, []string{"8192 is the most"}},
		{rules, map[string]string{"tenant": "a", "purpose": "backups"}, nil},
		{rules, map[string]string{"tenant": "a", "purpose": "backups", "stage": "test", "more": "x"}, nil},
		{rules, map[string]string{"tenant": "a", "purpose": "secret plans"}, []string{`"purpose" has a value that the rules do not allow`}},
		{rules, map[string]string{"tenant": "a", "purpose": "backups", "stage": "live"}, []string{`"stage"`}},
		{rules, map[string]string{"Tenant": "a", "purpose": "Backups"}, []string{`"purpose"`, `"tenant", which the rules require, is missing`}},
		{rules, nil, []string{"empty", `"tenant"`, `"purpose"`}},
	} {
		err := tt.rules.Check(tt.context)
		if (err == nil) != (tt.want == nil) || err != nil && !errors.Is(err, ErrContext) {
			t.Errorf("%q: %v", tt.context, err)
			continue
		}
		for _, part := range tt.want {
			if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "secret plans") {
				t.Errorf("%q: %v, want %q, and no values", tt.context, err, part)
			}
		}
	}
}

func TestParseRules(t *testing.T) {
	got, err := ParseRules([]byte(`{"required": ["tenant"], "values": {"purpose": ["invoices"]}}`))
	if diff := cmp.Diff(Rules{Required: []string{"tenant"}, Values: map[string][]string{"purpose": {"invoices"}}}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for in, want := range map[string]string{
		``:                                     "EOF",
		`[]`:                                   "no object",
		`null`:                                 "no object",
		`{"require": ["tenant"]}`:              `"require"`,
		`{"Required": ["tenant"]}`:             `"Required"`,
		`{"required": "tenant"}`:               "string",
		`{"required": [""]}`:                   "without a name",
		`{"values": ["x"]}`:                    "no object",
		`{"values": {"purpose": []}}`:          `"purpose"`,
		`{"values": {"p": [""]}}`:              `"p"`,
		`{"values": {"p": null}}`:              `"p"`,
		`{"values": {"": ["x"]}}`:              `""`,
		`{} {}`:                                "follows",
		`{}]`:                                  "follows",
		`{"required": []`:                      "EOF",
		`{"required": ["t"], "required": []}`:  `"required" is there twice`,
		`{"values": {"p": ["x"], "p": ["y"]}}`: `"p" is there twice`,
		`{"values": {"p": ["x"]}, "extra": 1.50}`: `"extra"`,
	} {
		if _, err := ParseRules([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}
