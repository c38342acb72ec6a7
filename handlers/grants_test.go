package handlers

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
)

func TestDecideGrant(t *testing.T) {
	const (
		own     = "arn:aws:iam::444455556666:role/reader"
		trusted = "arn:aws:iam::111122223333:role/partner"
		foreign = "arn:aws:iam::999988887777:role/visitor"
	)
	unseen := finding.Rules(finding.OfGrant)
	for _, tt := range []struct {
		name      string
		grant     inventory.Grant
		byService bool
		want      grantReason
		findings  []string // "severity id", worst first
	}{
		{"own, constrained", inventory.Grant{Grantee: own, Operations: []string{"Decrypt"}, Constrained: true}, false, grantPlain, nil},
		{"own, for everything", inventory.Grant{Grantee: own, Operations: []string{"Decrypt"}}, false, grantFindings, []string{"low grant-without-constraint"}},
		{"own, by a service", inventory.Grant{Grantee: own, Operations: []string{"Decrypt", "CreateGrant"}}, true, grantByService, nil},
		{"own, to be passed on", inventory.Grant{Grantee: own, Operations: []string{"CreateGrant"}}, false, grantFindings, []string{"medium grant-can-be-passed-on", "low grant-without-constraint"}},
		{"trusted", inventory.Grant{Grantee: trusted, Operations: []string{"Decrypt"}, Constrained: true}, false, grantPlain, nil},
		{"foreign, for everything", inventory.Grant{Grantee: foreign, Operations: []string{"Decrypt"}}, false, grantFindings, []string{"critical grant-to-foreign-account"}},
		{"foreign, by a service", inventory.Grant{Grantee: foreign, Operations: []string{"Decrypt"}}, true, grantFindings, []string{"critical grant-to-foreign-account"}},
		{"foreign, constrained", inventory.Grant{Grantee: foreign, Operations: []string{"Decrypt"}, Constrained: true}, false, grantFindings, []string{"high grant-to-foreign-account"}},
		{"foreign, to write", inventory.Grant{Grantee: foreign, Operations: []string{"Encrypt"}}, false, grantFindings, []string{"high grant-to-foreign-account"}},
		{"foreign, to be passed on", inventory.Grant{Grantee: foreign, Operations: []string{"CreateGrant"}, Constrained: true}, false, grantFindings, []string{"critical grant-can-be-passed-on", "high grant-to-foreign-account"}},
		{"a unique id", inventory.Grant{Grantee: "AIDA4EXAMPLE", Constrained: true}, false, grantFindings, []string{"medium grant-to-unknown"}},
		{"a service principal", inventory.Grant{GranteeService: "backup.amazonaws.com", Operations: []string{"Decrypt"}}, false, grantPlain, nil},
		{"a service as principal", inventory.Grant{Grantee: "dynamodb.eu-central-1.amazonaws.com", Operations: []string{"CreateGrant"}}, false, grantPlain, nil},
		{"a foreign retiree", inventory.Grant{Grantee: own, Constrained: true, Retiring: foreign}, true, grantFindings, []string{"medium grant-retired-by-foreign"}},
		{"an ARN that is none", inventory.Grant{Grantee: "arn:aws:iam::12:role/x", Constrained: true}, false, grantFindings, []string{"medium grant-to-unknown"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			unseen = slices.DeleteFunc(unseen, func(r finding.Rule) bool {
				return slices.ContainsFunc(tt.findings, func(f string) bool { return strings.HasSuffix(f, " "+r.ID.String()) })
			})
			got, findings := decideGrant(grantInput{grant: tt.grant, byService: tt.byService, account: "444455556666", trusted: []string{"111122223333"}})
			var ids []string
			for _, f := range findings {
				ids = append(ids, string(f.Severity)+" "+f.ID.String())
			}
			if diff := cmp.Diff(tt.findings, ids); got != tt.want || diff != "" {
				t.Errorf("%q, want %q; findings (-want +got):\n%s", got, tt.want, diff)
			}
		})
	}
	for _, r := range unseen {
		t.Errorf("no grant here has the finding %s", r.ID)
	}
}

func TestByService(t *testing.T) {
	for invokedBy, want := range map[string]bool{
		"": false, "signin.amazonaws.com": false, "cloudformation.amazonaws.com": false,
		"ec2.amazonaws.com": true, "AWS Internal": true, "somebody": false,
	} {
		if got := byService(events.Event{Actor: events.Actor{Type: "AssumedRole", InvokedBy: invokedBy}}); got != want {
			t.Errorf("invoked by %q: %v", invokedBy, got)
		}
	}
}

func TestDecideTags(t *testing.T) {
	in := func(set map[string]string, removed ...string) tagInput {
		return tagInput{
			set: set, removed: removed, before: map[string]string{"class": "secret"},
			steers: func(name string) bool { return name == "class" || name == approvalTag || name == "cmkeeper:alias" },
		}
	}
	for _, tt := range []struct {
		name     string
		in       tagInput
		want     tagReason
		severity alert.Severity
		changes  []string
	}{
		{"nobody's business", in(map[string]string{"team": "x"}, "cost"), tagsIrrelevant, "", nil},
		{"as it was", in(map[string]string{"class": "secret", "team": "x"}), tagsKnown, "", nil},
		{"another value", in(map[string]string{"class": "public"}), tagsSteering, alert.Medium, []string{"class = public (before: secret)"}},
		{"a new one", in(map[string]string{"cmkeeper:alias": "x"}), tagsSteering, alert.Medium, []string{"cmkeeper:alias = x"}},
		{"removed", in(nil, "class", "cmkeeper:alias"), tagsSteering, alert.Medium, []string{"class removed (before: secret)", "cmkeeper:alias removed"}},
		{"approval", in(map[string]string{approvalTag: "2026-03-01", "class": "public"}, "cmkeeper:alias"), tagsApproved, alert.High,
			[]string{"class = public (before: secret)", approvalTag + " = 2026-03-01", "cmkeeper:alias removed"}},
		{"approval withdrawn", in(nil, approvalTag), tagsSteering, alert.Medium, []string{approvalTag + " removed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, severity, changes := decideTags(tt.in)
			if got != tt.want || severity != tt.severity || !slices.Equal(changes, tt.changes) {
				t.Errorf("%q %q %q, want %q %q %q", got, severity, changes, tt.want, tt.severity, tt.changes)
			}
		})
	}
}
