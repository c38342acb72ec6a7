package handlers

import (
	"slices"
	"testing"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

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

func TestGrantee(t *testing.T) {
	for principal, want := range map[string]string{
		"arn:aws:iam::999988887777:role/visitor":           "role/visitor of account 999988887777",
		"arn:aws:iam::999988887777:root":                   "account 999988887777",
		"arn:aws:sts::999988887777:assumed-role/visitor/x": "assumed-role/visitor/x of account 999988887777",
	} {
		if got := grantee(principal); got != want {
			t.Errorf("%s: %q, want %q", principal, got, want)
		}
	}
}

func TestDecideTags(t *testing.T) {
	in := func(set map[string]string, removed ...string) tagInput {
		return tagInput{
			set: set, removed: removed, before: map[string]string{"class": "secret"},
			steers: func(name string) bool {
				return name == "class" || name == reaction.ApprovalTag || name == "cmkeeper:alias"
			},
		}
	}
	for _, tt := range []struct {
		name     string
		in       tagInput
		want     tagReason
		severity finding.Severity
		changes  []string
	}{
		{"nobody's business", in(map[string]string{"team": "x"}, "cost"), tagsIrrelevant, "", nil},
		{"as it was", in(map[string]string{"class": "secret", "team": "x"}), tagsKnown, "", nil},
		{"another value", in(map[string]string{"class": "public"}), tagsSteering, finding.Medium, []string{"class = public (before: secret)"}},
		{"a new one", in(map[string]string{"cmkeeper:alias": "x"}), tagsSteering, finding.Medium, []string{"cmkeeper:alias = x"}},
		{"removed", in(nil, "class", "cmkeeper:alias"), tagsSteering, finding.Medium, []string{"class removed (before: secret)", "cmkeeper:alias removed"}},
		{"approval", in(map[string]string{reaction.ApprovalTag: "2026-03-01", "class": "public"}, "cmkeeper:alias"), tagsApproved, finding.High,
			[]string{"class = public (before: secret)", reaction.ApprovalTag + " = 2026-03-01", "cmkeeper:alias removed"}},
		{"approval withdrawn", in(nil, reaction.ApprovalTag), tagsSteering, finding.Medium, []string{reaction.ApprovalTag + " removed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, severity, changes := decideTags(tt.in)
			if got != tt.want || severity != tt.severity || !slices.Equal(changes, tt.changes) {
				t.Errorf("%q %q %q, want %q %q %q", got, severity, changes, tt.want, tt.severity, tt.changes)
			}
		})
	}
}
