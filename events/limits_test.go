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
	for name, test := range map[string]struct{ body, fails string }{
		"the longest policy":              {record("PutKeyPolicy", `"policy":"`+long(32<<10)+`"`), ""},
		"a policy that KMS does not take": {record("PutKeyPolicy", `"policy":"`+long(maxText+1)+`"`), "a text is longer than 65536 bytes"},
		"something else that is long":     {record("PutKeyPolicy", `"note":"`+long(1<<20)+`","list":[`+many(9999, "{}")+`]`), ""},
		"a name that is long":             {record("PutKeyPolicy", `"`+long(maxText+1)+`":1`), "a text is longer"},
		"the most tags":                   {record("TagResource", `"tags":[`+many(50, `{"tagKey":"a","tagValue":"b"}`)+`]`), ""},
		"more tags than a key can have":   {record("TagResource", `"tags":[`+many(maxList+1, `{"tagKey":"a","tagValue":"b"}`)+`]`), "a list has more than 1000 elements"},
		"more names of tags":              {record("UntagResource", `"tagKeys":[`+many(maxList+1, `"a"`)+`]`), "a list has more"},
		"more operations":                 {record("CreateGrant", `"operations":[`+many(maxList+1, `"Decrypt"`)+`]`), "a list has more"},
		"a long event in a notification":  {wrapped(record("PutKeyPolicy", `"note":"`+long(200<<10)+`"`)), ""},
	} {
		_, err := Parse([]byte(test.body))
		switch {
		case test.fails == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)):
			t.Errorf("%s: error %v, want %q", name, err, test.fails)
		}
	}
	selectors := strings.Replace(record("PutEventSelectors", `"eventSelectors":[`+many(99_999, `{}`)+`]`), "kms.", "cloudtrail.", 1)
	e, err := Parse([]byte(selectors))
	if d, ok := e.Detail.(EventSelectors); err != nil || !ok || len(d.Basic) > maxList {
		t.Errorf("%d event selectors are kept, %v", len(d.Basic), err)
	}
}
