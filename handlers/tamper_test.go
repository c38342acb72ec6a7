package handlers

import (
	"testing"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
)

func TestDecideTamper(t *testing.T) {
	management := events.FieldSelector{Field: "eventCategory", Operator: "equals", Values: []string{"Management"}}
	advanced := func(selectors ...events.AdvancedSelector) events.EventSelectors {
		return events.EventSelectors{Advanced: selectors}
	}
	field := func(name, operator string, values ...string) events.FieldSelector {
		return events.FieldSelector{Field: name, Operator: operator, Values: values}
	}
	for _, tt := range []struct {
		name     string
		event    string
		detail   events.Detail
		want     tamperReason
		severity finding.Severity
	}{
		{"trail stopped", "StopLogging", events.Trail{}, tamperBlinded, finding.Critical},
		{"trail changed", "UpdateTrail", events.Trail{}, tamperChanged, finding.Medium},
		{"rule disabled", "DisableRule", events.Rule{}, tamperBlinded, finding.Critical},
		{"rule set", "PutRule", events.Rule{State: "ENABLED"}, tamperNarrowed, finding.High},
		{"rule set and disabled", "PutRule", events.Rule{State: "DISABLED"}, tamperBlinded, finding.Critical},
		{"targets set", "PutTargets", events.Rule{}, tamperChanged, finding.Medium},
		{"queue purged", "PurgeQueue", events.Queue{}, tamperBlinded, finding.Critical},
		{"queue tuned", "SetQueueAttributes", events.Queue{Attributes: map[string]string{"VisibilityTimeout": "1", "DelaySeconds": "1"}}, tamperHarmless, ""},
		{"queue tuned and more", "SetQueueAttributes", events.Queue{Attributes: map[string]string{"VisibilityTimeout": "1", "Policy": ""}}, tamperNarrowed, finding.High},
		{"queue, nothing known", "SetQueueAttributes", events.Queue{}, tamperNarrowed, finding.High},
		{"topic deleted", "DeleteTopic", events.Topic{}, tamperMuted, finding.Critical},
		{"topic named", "SetTopicAttributes", events.Topic{Attribute: "DisplayName"}, tamperHarmless, ""},
		{"subscription filtered", "SetSubscriptionAttributes", events.Topic{Attribute: "FilterPolicy"}, tamperMuted, finding.High},

		{"no selectors known", "PutEventSelectors", events.EventSelectors{}, tamperChanged, finding.High},
		{"basic: all", "PutEventSelectors", events.EventSelectors{Basic: []events.EventSelector{{ReadWriteType: "All", Management: true}}}, tamperHarmless, ""},
		{"basic: reads", "PutEventSelectors", events.EventSelectors{Basic: []events.EventSelector{{ReadWriteType: "ReadOnly", Management: true}}}, tamperBlinded, finding.Critical},
		{"advanced: management", "PutEventSelectors", advanced(events.AdvancedSelector{management}), tamperHarmless, ""},
		{"advanced: no category", "PutEventSelectors", advanced(events.AdvancedSelector{field("eventSource", "equals", events.SourceKMS)}), tamperBlinded, finding.Critical},
		{"advanced: KMS only", "PutEventSelectors", advanced(events.AdvancedSelector{management, field("eventSource", "equals", events.SourceKMS)}), tamperHarmless, ""},
		{"advanced: by the end", "PutEventSelectors", advanced(events.AdvancedSelector{management, field("eventSource", "notEndsWith", ".amazonaws.com")}), tamperBlinded, finding.Critical},
		{"advanced: by the beginning", "PutEventSelectors", advanced(events.AdvancedSelector{management, field("eventSource", "startsWith", "s3", "kms")}), tamperHarmless, ""},
		{"advanced: some names", "PutEventSelectors", advanced(events.AdvancedSelector{management, field("eventName", "notEquals", "DisableKey")}), tamperNarrowed, finding.High},
		{"advanced: one of two", "PutEventSelectors", advanced(events.AdvancedSelector{management, field("readOnly", "equals", "true")}, events.AdvancedSelector{management}), tamperHarmless, ""},
		{"advanced: an operator of the future", "PutEventSelectors", advanced(events.AdvancedSelector{management, field("eventSource", "matches", events.SourceKMS)}), tamperBlinded, finding.Critical},
		{"nothing of ours", "PutRule", nil, tamperHarmless, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, severity := decideTamper(events.Event{Name: tt.event, Detail: tt.detail}); got != tt.want || severity != tt.severity {
				t.Errorf("%q %q, want %q %q", got, severity, tt.want, tt.severity)
			}
		})
	}
}

func TestDecideKeyStore(t *testing.T) {
	for _, tt := range []struct {
		in       keyStoreInput
		want     keyStoreReason
		severity finding.Severity
	}{
		{keyStoreInput{event: "CreateCustomKeyStore"}, keyStoreOffers, finding.Medium},
		{keyStoreInput{event: "ConnectCustomKeyStore", keys: 3}, keyStoreOffers, finding.Info},
		{keyStoreInput{event: "UpdateCustomKeyStore"}, keyStoreChanged, finding.High},
		{keyStoreInput{event: "DeleteCustomKeyStore"}, keyStoreGone, finding.High},
		{keyStoreInput{event: "DisconnectCustomKeyStore", keys: 1}, keyStoreCutOff, finding.Critical},
		{keyStoreInput{event: "DisconnectCustomKeyStore"}, keyStoreCutOff, finding.High},
		{keyStoreInput{event: "DisconnectCustomKeyStore", all: true}, keyStoreCutOff, finding.Medium},
	} {
		if got, severity := decideKeyStore(tt.in); got != tt.want || severity != tt.severity {
			t.Errorf("%+v: %q %q, want %q %q", tt.in, got, severity, tt.want, tt.severity)
		}
	}
}
