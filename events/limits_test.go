package events

import (
	"encoding/json"
	"strings"
	"testing"
)

// What is kept of an event has a bound, whatever the message has: what nobody asks for may
// be as long as it is.
func TestLimits(t *testing.T) {
	record := func(name, parameters string) string {
		return `{"eventVersion":"1.11","eventType":"AwsApiCall","eventName":"` + name + `","eventSource":"kms.amazonaws.com","eventTime":"2026-03-01T12:00:00Z","eventID":"e-1","awsRegion":"eu-central-1","recipientAccountId":"444455556666",` +
			`"requestParameters":{"keyId":"k",` + parameters + `}}`
	}
	wrapped := func(message string) string {
		text, err := json.Marshal(map[string]string{"Type": "Notification", "TopicArn": "arn:aws:sns:eu-central-1:444455556666:t", "Message": message})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	long := func(n int) string { return strings.Repeat("x", n) }
	many := func(n int, element string) string { return strings.TrimSuffix(strings.Repeat(element+",", n), ",") }
	for name, test := range map[string]struct {
		body string
		kept int // how much is
	}{
		"the longest policy":             {record("PutKeyPolicy", `"policy":"`+long(32<<10)+`"`), 32 << 10},
		"the longest, escaped":           {record("PutKeyPolicy", `"policy":"`+strings.Repeat(`\n`, 32<<10)+`"`), 32 << 10},
		"a longer policy":                {record("PutKeyPolicy", `"policy":"`+long(maxText+1)+`"`), 0},
		"something else that is long":    {record("PutKeyPolicy", `"policy":"p","note":"`+long(1<<20)+`","list":[`+many(9999, "{}")+`]`), 1},
		"a name that is long":            {record("PutKeyPolicy", `"`+long(maxText+1)+`":1,"policy":"p"`), 1},
		"the most tags":                  {record("UntagResource", `"tagKeys":[`+many(50, `"a"`)+`]`), 50},
		"more tags than a key can have":  {record("UntagResource", `"tagKeys":[`+many(maxList+1, `"a"`)+`]`), maxList},
		"more operations":                {record("CreateGrant", `"operations":[`+many(maxList+1, `"Decrypt"`)+`]`), maxList},
		"a long event in a notification": {wrapped(record("PutKeyPolicy", `"policy":"p","note":"`+long(200<<10)+`"`)), 1},
	} {
		e, err := Parse([]byte(test.body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		kept := -1
		switch d := e.Detail.(type) {
		case PutKeyPolicy:
			kept = len(d.Policy)
		case UntagResource:
			kept = len(d.TagKeys)
		case CreateGrant:
			kept = len(d.Operations)
		}
		if kept != test.kept {
			t.Errorf("%s: %d are kept, want %d", name, kept, test.kept)
		}
	}
	selectors := strings.Replace(record("PutEventSelectors", `"eventSelectors":[`+many(99_999, `{}`)+`]`), "kms.", "cloudtrail.", 1)
	e, err := Parse([]byte(selectors))
	if d, ok := e.Detail.(EventSelectors); err != nil || !ok || len(d.Basic) > maxList {
		t.Errorf("%d event selectors are kept, %v", len(d.Basic), err)
	}
}
