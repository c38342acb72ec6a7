package judgement

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// kinds are those that the exemptions of these tests may name.
var kinds = []string{"rotation", "policy", "deletion"}

const own = "arn:aws:iam::111122223333:"

func day(s string) time.Time {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		panic(err)
	}
	return t
}

func TestParseExemptions(t *testing.T) {
	text := " rotation,policy of alias/legacy-*  until 2027-03-31 : the vendor cannot rotate: ticket 12;\n" +
		"anything of tag cost centre=4 2 until 2026-12-31: nobody depends on it until then. ;" +
		"deletion by role/break-glass until 2026-12-01: the yearly drill; ;"
	got, err := ParseExemptions(text, kinds)
	if err != nil {
		t.Fatal(err)
	}
	want := Exemptions{
		{Kinds: []string{"rotation", "policy"}, Of: &Selector{alias: "alias/legacy-*"}, Last: day("2027-03-31"), Reason: "the vendor cannot rotate: ticket 12"},
		{Of: &Selector{tag: "cost centre", value: "4 2"}, Last: day("2026-12-31"), Reason: "nobody depends on it until then"},
		{Kinds: []string{"deletion"}, By: &Principals{"role/break-glass"}, Last: day("2026-12-01"), Reason: "the yearly drill"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Selector{}, Principals{})); diff != "" {
		t.Error(diff)
	}
	if none, err := ParseExemptions("  ", kinds); len(none) != 0 || err != nil {
		t.Errorf("no exemptions are %v, %v", none, err)
	}
}

func TestParseExemptionsNamesWhatIsWrong(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no end", "rotation of alias/x: because", "until DATE: REASON"},
		{"no reason", "rotation of alias/x until 2027-03-31", "until DATE: REASON"},
		{"empty reason", "rotation of alias/x until 2027-03-31: ", "until DATE: REASON"},
		{"no day", "rotation of alias/x until 2027-02-30: because", `its date "2027-02-30" must be a day`},
		{"neither keys nor actor", "rotation until 2027-03-31: because", "says neither"},
		{"a misspelt kind", "rotaton of alias/x until 2027-03-31: because", `"rotaton" cannot be exempted: write rotation, policy, deletion or anything`},
		{"the guard", "rotation, guard of alias/x until 2027-03-31: because", `"guard" cannot be exempted`},
		{"no keys", "rotation of x until 2027-03-31: because", `"x" is neither aliases nor a tag`},
		{"a tag without a value", "rotation of tag env until 2027-03-31: because", `"tag env" is neither aliases nor a tag`},
		{"every key", "rotation of * until 2027-03-31: because", `"*" is every key: to exempt all keys`},
		{"every key with an alias", "rotation of alias/* until 2027-03-31: because", "is every key that has an alias"},
		{"every key with the tag", "rotation of tag env=* until 2027-03-31: because", "is every key that has this tag"},
		{"everybody by a star", "rotation by * until 2027-03-31: because", `"*" is everybody`},
		{"everybody", "rotation by role/* until 2027-03-31: because", "is everybody"},
		{"everybody anywhere", "rotation by arn:* until 2027-03-31: because", "is everybody"},
		{"a name that is no principal", "rotation by alice until 2027-03-31: because", `"alice" is no pattern of roles`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseExemptions("policy of alias/good until 2027-03-31: fine; "+tt.text, kinds)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), strings.TrimSpace(tt.text)) {
				t.Errorf("error %v does not name the entry and say %q", err, tt.want)
			}
		})
	}
}

func TestFind(t *testing.T) {
	all, err := ParseExemptions("rotation of alias/legacy-* until 2027-03-31: a; anything of tag env=sand* until 2027-03-31: b;"+
		"deletion by role/break-glass until 2027-03-31: c; deletion by arn:aws:iam::444455556666:user/* until 2027-03-31: d", kinds)
	if err != nil {
		t.Fatal(err)
	}
	legacy := Key{Aliases: []string{"alias/other", "alias/legacy-erp"}}
	sandbox := Key{Tags: map[string]string{"env": "sandbox-2"}}
	tests := []struct {
		name, kind string
		key        Key
		by         Actor
		now        time.Time
		want       string // the reason; "" for none
	}{
		{name: "alias", kind: "rotation", key: legacy, want: "a"},
		{name: "alias, another kind", kind: "policy", key: legacy},
		{name: "another alias", kind: "rotation", key: Key{Aliases: []string{"alias/app"}}},
		{name: "tag, any kind", kind: "policy", key: sandbox, want: "b"},
		{name: "another value", kind: "policy", key: Key{Tags: map[string]string{"env": "prod"}}},
		{name: "value of another tag", kind: "policy", key: Key{Tags: map[string]string{"Env": "sandbox"}}},
		{name: "role", kind: "deletion", by: Actor{Principal: own + "role/break-glass"}, want: "c"},
		{name: "role below a path", kind: "deletion", by: Actor{Principal: own + "role/ops/break-glass"}, want: "c"},
		{name: "role of that name elsewhere", kind: "deletion", by: Actor{Principal: "arn:aws:iam::444455556666:role/break-glass", Foreign: true}},
		{name: "user of that name", kind: "deletion", by: Actor{Principal: own + "user/break-glass"}},
		{name: "role whose path has that name", kind: "deletion", by: Actor{Principal: own + "role/break-glass/x"}},
		{name: "session of that name", kind: "deletion", by: Actor{Principal: "arn:aws:sts::111122223333:assumed-role/x/break-glass"}},
		{name: "whole ARN, of another account", kind: "deletion", by: Actor{Principal: "arn:aws:iam::444455556666:user/carol", Foreign: true}, want: "d"},
		{name: "nobody", kind: "deletion"},
		{name: "the last day", kind: "rotation", key: legacy, now: day("2027-04-01").Add(-time.Second), want: "a"},
		{name: "expired", kind: "rotation", key: legacy, now: day("2027-04-01")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.now.IsZero() {
				tt.now = day("2026-11-22")
			}
			got, ok := all.Find(tt.kind, tt.key, tt.by, tt.now)
			if got.Reason != tt.want || ok != (tt.want != "") {
				t.Errorf("found %v %v, want %q", got, ok, tt.want)
			}
		})
	}
}

func TestDaysLeft(t *testing.T) {
	e := Exemption{Last: day("2027-03-31")}
	for now, want := range map[string]int{"2027-03-17T00:00:00Z": 14, "2027-03-30T23:59:59Z": 1, "2027-03-31T12:00:00Z": 0, "2027-04-01T00:00:00Z": -1} {
		at, err := time.Parse(time.RFC3339, now)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.DaysLeft(at); got != want || e.Holds(at) != (want >= 0) {
			t.Errorf("at %s: %d days left, holds %v; want %d", now, got, e.Holds(at), want)
		}
	}
}

func FuzzParseExemptions(f *testing.F) {
	f.Add("rotation, policy of alias/legacy-* until 2027-03-31: the vendor cannot rotate; anything of tag a=b until 2026-12-31: x")
	f.Add("deletion by arn:aws:iam::111122223333:role/*/deploy until 2026-12-01: a: b until c")
	f.Add("anything of tag a of b=c by d until 2026-12-01:  ")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParseExemptions(text, kinds)
		if err != nil {
			return
		}
		var again []string
		for _, e := range all {
			again = append(again, e.String())
			for _, k := range e.Kinds {
				if !slices.Contains(kinds, k) {
					t.Errorf("%v is limited to %q", e, k)
				}
			}
		}
		same, err := ParseExemptions(strings.Join(again, ";"), kinds)
		if err != nil {
			t.Fatalf("%q cannot be read again: %v", again, err)
		}
		if diff := cmp.Diff(all, same, cmp.AllowUnexported(Selector{}, Principals{})); diff != "" {
			t.Errorf("%q is read as something else:\n%s", again, diff)
		}
	})
}
