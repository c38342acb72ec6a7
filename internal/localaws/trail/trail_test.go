package trail_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

func TestJSON(t *testing.T) {
	type inner struct {
		KeyID string `json:"KeyId,omitempty"`
	}
	type embedded struct {
		AWSAccountID string `json:"AWSAccountId"`
	}
	type request struct {
		embedded
		Plain     string
		FromXML   string `xml:"TopicArn"`
		Verbatim  string `trail:"Host"`
		Secret    string `trail:"-"`
		Empty     string
		Bytes     []byte
		Document  json.RawMessage
		Map       map[string]string
		List      []inner
		NoList    []inner
		EmptyList []string
		Flag      bool
		Count     int
		Given     *bool
		NotGiven  *bool
		Any       any
		When      wire.Timestamp
	}
	got := trail.JSON(&request{
		embedded: embedded{"1"}, Plain: "<ü>", FromXML: "t", Verbatim: "h", Secret: "s", Bytes: []byte("b"), Document: json.RawMessage(`{"A":1}`),
		Map: map[string]string{"Big": "x"}, List: []inner{{"k"}, {}}, EmptyList: []string{}, Given: new(false), Any: inner{"a"},
		When: wire.Timestamp(time.Date(2026, 2, 3, 16, 5, 6, 0, time.UTC)),
	})
	want := `{"aWSAccountId":"1","plain":"\u003cü\u003e","topicArn":"t","Host":"h","document":{"A":1},"map":{"Big":"x"},"list":[{"keyId":"k"},{}],` +
		`"emptyList":[],"flag":false,"count":0,"given":false,"any":{"keyId":"a"},"when":"Feb 3, 2026, 4:05:06 PM"}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := trail.JSON(nil); got != nil {
		t.Errorf("nothing is %s", got)
	}
}

// Whoever receives an event may make calls: their events follow.
func TestEventsOfEvents(t *testing.T) {
	var got []string
	var r *trail.Recorder
	call := func(name string) {
		r.Call(trail.Call{Service: "kms", Operation: name, Caller: wire.Caller{AccountID: "111122223333"}})
		r.Flush()
	}
	r = trail.New(trail.Config{Account: "111122223333", Region: "us-east-1", Publish: func(event json.RawMessage) {
		var e struct{ Detail struct{ EventName string } }
		if err := json.Unmarshal(event, &e); err != nil {
			t.Error(err)
		}
		got = append(got, e.Detail.EventName)
		if len(got) < 3 {
			call(e.Detail.EventName + "x")
		}
	}})
	defer r.Close()
	call("x")
	if diff := cmp.Diff([]string{"x", "xx", "xxx"}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// A record that lacks what names its event is refused with what is missing.
func TestGivenRecords(t *testing.T) {
	r := trail.New(trail.Config{Account: "111122223333", Region: "us-east-1"})
	defer r.Close()
	for record, want := range map[string]string{
		`{`:                       "decode CloudTrail record",
		`{"eventName":"x"}`:       "no eventSource",
		`{"eventSource":"x.aws"}`: "no eventName",
	} {
		if err := r.Given([]byte(record)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", record, err, want)
		}
	}
	if err := r.Given([]byte(`{"eventSource":"x","eventName":"y","eventTime":"yesterday","readOnly":"no"}`)); err != nil {
		t.Error(err)
	}
	if kept := r.History(); len(kept) != 1 || kept[0].Record().EventName != "y" || time.Since(kept[0].Time) > time.Hour {
		t.Errorf("kept %v", kept)
	}
}
