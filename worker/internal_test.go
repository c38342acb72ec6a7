package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

func TestPrintable(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", maxReason, "no reason given"},
		{"plain <text> & ü", maxReason, "plain <text> & ü"},
		{"a\nb\tc\x00d\u2028e", maxReason, `a\nb\tc\x00d\u2028e`},
		{"broken \xff utf-8", maxReason, `broken \xff utf-8`},
		{"\ufffd itself", maxReason, "\ufffd itself"},
		{"\ufffe no character", maxReason, `\ufffe no character`},
		{"'quoted'", maxReason, "'quoted'"},
		{"exactly sixteen.", 16, "exactly sixteen."},
		{"seventeen letters", 16, "seventeen let…"},
		{"an escape\n\n\n\n\n", 16, `an escape\n\n…`},
		{"cut before ü and not", 16, "cut before ü…"},
	} {
		if got := printable(test.in, test.limit); got != test.want {
			t.Errorf("printable(%q, %d) = %q, want %q", test.in, test.limit, got, test.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("plain", 1024)
	f.Add("\x00\xff\n\U0010ffff\ufffe", 8)
	f.Add(strings.Repeat("ü", 600), 1024)
	f.Fuzz(func(t *testing.T, in string, limit int) {
		if limit < 16 || limit > 1<<16 {
			return
		}
		got := printable(in, limit)
		if got == "" || len(got) > limit || !utf8.ValidString(got) {
			t.Fatalf("printable(%q, %d) = %q", in, limit, got)
		}
		for _, r := range got { // the characters that SQS accepts, but for tab and line ends
			if r < 0x20 || r == 0xfffe || r == 0xffff {
				t.Fatalf("printable(%q, %d) = %q holds %U", in, limit, got, r)
			}
		}
		if again := printable(got, limit); again != got {
			t.Fatalf("printable is not stable: %q, then %q", got, again)
		}
	})
}

func TestCopyAttributes(t *testing.T) {
	t.Parallel()
	text := func(n int) map[string]types.MessageAttributeValue {
		m := map[string]types.MessageAttributeValue{}
		for i := range n {
			m[strconv.Itoa(i)] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String("v")}
		}
		return m
	}
	earlier := text(1)
	earlier[AttributeReason] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String("an earlier one")}
	own := []attribute{{AttributeReason, "String", "reason"}, {AttributeQueue, "String", "events"}}
	for name, test := range map[string]struct {
		body       string
		attributes map[string]types.MessageAttributeValue
		want       []string
	}{
		"none":               {"", nil, []string{AttributeQueue, AttributeReason}},
		"some":               {"", text(2), []string{"0", "1", AttributeQueue, AttributeReason}},
		"nine":               {"", text(9), []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", AttributeReason}},
		"ten":                {"", text(10), []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}},
		"of an earlier copy": {"", earlier, []string{"0", AttributeQueue, AttributeReason}},
		"full body":          {strings.Repeat("x", maxBytes), nil, nil},
		"room for one":       {strings.Repeat("x", maxBytes-len(AttributeReason+"Stringreason")), nil, []string{AttributeReason}},
		"no room for one":    {strings.Repeat("x", maxBytes-len(AttributeReason+"Stringreason")+1), nil, nil},
		"attributes count":   {strings.Repeat("x", maxBytes-len(AttributeReason+"Stringreason")-len("0Stringv")+1), text(1), []string{"0"}},
	} {
		got, all := copyAttributes(&types.Message{Body: &test.body, MessageAttributes: test.attributes}, own)
		names := slices.Sorted(maps.Keys(got))
		if diff := cmp.Diff(test.want, names); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if v, ok := got[AttributeReason]; ok && *v.StringValue != "reason" {
			t.Errorf("%s: reason %q", name, *v.StringValue)
		}
		if _, last := got[AttributeQueue]; all != last {
			t.Errorf("%s: all %v", name, all)
		}
	}
}

func TestDeadLetterTarget(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]string{
		`{"deadLetterTargetArn":"arn:aws:sqs:eu-west-1:123456789012:dead","maxReceiveCount":"5"}`:   "dead",
		`{"deadLetterTargetArn":"arn:aws-cn:sqs:cn-north-1:123456789012:dead","maxReceiveCount":5}`: "dead",
		`{"deadLetterTargetArn":"arn:aws:sns:eu-west-1:123456789012:topic"}`:                        "",
		`{"deadLetterTargetArn":"dead"}`: "",
		`{}`:                             "",
		`not JSON`:                       "",
	} {
		got, err := deadLetterTarget(policy)
		if (err == nil) != (want != "") || err == nil && got.Resource != want {
			t.Errorf("deadLetterTarget(%s) = %v, %v; want %q", policy, got, err, want)
		}
	}
}

// Only a copy of ours says when its original was sent, and by whom.
func TestNewMessageOfOurs(t *testing.T) {
	t.Parallel()
	first, original := "1699999999123", "events"
	raw := &types.Message{
		Attributes: map[string]string{"SentTimestamp": "1700000000123", "SenderId": "AROAKEEPER:worker-1"},
		MessageAttributes: map[string]types.MessageAttributeValue{
			AttributeFirstSent: {StringValue: &first}, AttributeSender: {StringValue: &original},
		},
	}
	for self, want := range map[string]Message{
		"AROAKEEPER:worker-2": {ReceiveCount: 1, Sent: time.UnixMilli(1_699_999_999_123), Sender: "events"},
		"AROAOTHER:worker-1":  {ReceiveCount: 1, Sent: time.UnixMilli(1_700_000_000_123), Sender: "AROAKEEPER:worker-1"},
	} {
		if diff := cmp.Diff(want, newMessage(raw, self)); diff != "" {
			t.Errorf("for %s (-want +got):\n%s", self, diff)
		}
	}
}

func TestNeighbour(t *testing.T) {
	t.Parallel()
	target := arn.Parse("arn:aws:sqs:eu-west-1:444455556666:dead")
	for url, want := range map[string]string{
		"https://sqs.eu-west-1.amazonaws.com/111122223333/events":        "https://sqs.eu-west-1.amazonaws.com/444455556666/dead",
		"https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/111122223333/a": "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/444455556666/dead",
		"http://127.0.0.1:4566/000000000000/events":                      "http://127.0.0.1:4566/444455556666/dead",
		"http://sqs.localhost:4566/queue/eu-west-1/000000000000/events":  "http://sqs.localhost:4566/queue/eu-west-1/444455556666/dead",
		"http://elasticmq:9324/queue/events":                             "",
		"http://elasticmq:9324/events":                                   "",
		"events":                                                         "",
		"https://sqs.eu-west-1.amazonaws.com/1111222233334/events":       "",
		"https://sqs.eu-west-1.amazonaws.com/11112222333x/events":        "",
	} {
		if got := neighbour(url, target); got != want {
			t.Errorf("neighbour(%s) = %q, want %q", url, got, want)
		}
	}
}

func TestNewMessage(t *testing.T) {
	t.Parallel()
	sent := time.UnixMilli(1_700_000_000_123)
	message := func(first string) *types.Message {
		m := &types.Message{
			MessageId:         aws.String("id"),
			Body:              aws.String("body"),
			Attributes:        map[string]string{"ApproximateReceiveCount": "3", "SentTimestamp": "1700000000123"},
			MessageAttributes: map[string]types.MessageAttributeValue{"bytes": {BinaryValue: []byte("x")}},
		}
		if first != "" {
			m.MessageAttributes[AttributeFirstSent] = types.MessageAttributeValue{StringValue: &first}
		}
		return m
	}
	for name, test := range map[string]struct {
		raw  *types.Message
		want Message
	}{
		"original":     {message(""), Message{ID: "id", Body: "body", ReceiveCount: 3, Sent: sent}},
		"copy":         {message("1699999999123"), Message{ID: "id", Body: "body", ReceiveCount: 3, Sent: sent.Add(-1000 * time.Second)}},
		"from later":   {message("1800000000000"), Message{ID: "id", Body: "body", ReceiveCount: 3, Sent: sent}},
		"from nowhere": {message("yesterday"), Message{ID: "id", Body: "body", ReceiveCount: 3, Sent: sent}},
		"empty":        {&types.Message{}, Message{ReceiveCount: 1}},
	} {
		if name == "copy" {
			test.want.Sent = time.UnixMilli(1_699_999_999_123)
		}
		if diff := cmp.Diff(test.want, newMessage(test.raw, "")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestAdvice(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		"AWS.SimpleQueueService.NonExistentQueue": "create the queue",
		"QueueDoesNotExist":                       "create the queue",
		"AccessDenied":                            "allow the worker's role",
		"AccessDeniedException":                   "allow the worker's role",
		"KmsDisabled":                             "key that encrypts the queue",
		"KMS.DisabledException":                   "key that encrypts the queue",
		"OverLimit":                               "in flight",
		"ExpiredToken":                            "credentials",
		"InvalidClientTokenId":                    "credentials",
		"SignatureDoesNotMatch":                   "credentials",
		"InternalError":                           "tried again",
	} {
		err := fmt.Errorf("receive: %w", &smithy.GenericAPIError{Code: code})
		if got := advice(err); !strings.Contains(got, want) {
			t.Errorf("advice(%s) = %q, want %q in it", code, got, want)
		}
	}
	if got := advice(errors.New("dial tcp: no route to host")); !strings.Contains(got, "network") {
		t.Errorf("advice on a network error is %q", got)
	}
}

func TestPollBackoff(t *testing.T) {
	t.Parallel()
	for n := 1; n < 100; n++ {
		longest := min(time.Duration(1)<<(min(n, 10)-1)*time.Second, 30*time.Second)
		if got := pollBackoff(n); got < longest/4 || got > longest {
			t.Errorf("pollBackoff(%d) = %s, want between %s and %s", n, got, longest/4, longest)
		}
	}
}

// TestRenewal looks at a lease near the end of the twelve hours.
func TestRenewal(t *testing.T) {
	t.Parallel()
	received := time.Unix(0, 0)
	d := &delivery{received: received}
	for after, want := range map[time.Duration]time.Duration{
		0:                                     30 * time.Second,
		11*time.Hour + 58*time.Minute:         30 * time.Second,
		12*time.Hour - 80*time.Second:         20 * time.Second,
		12*time.Hour - 60400*time.Millisecond: 0,
	} {
		if got := renewal(d, received.Add(after), 30*time.Second); got != want {
			t.Errorf("after %s a lease is renewed for %s, want %s", after, got, want)
		}
	}
}

// TestTakeSlots takes slots and looks at what is left.
func TestTakeSlots(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ slots, n, want int }{
		"as many as asked for": {20, 10, 10},
		"as many as there are": {7, 10, 7},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSlots(test.slots)
			if got := s.take(t.Context(), test.n); got != test.want {
				t.Fatalf("%s: took %d, want %d", name, got, test.want)
			}
			if s.free != test.slots-test.want {
				t.Errorf("%s: %d slots are left", name, s.free)
			}
		})
	}
}

// TestTakeWaits: a poller that finds nothing free waits for slots, takes those that come
// back within the linger time together, and gives all back in the end.
func TestTakeWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(4)
		ctx, cancel := context.WithCancel(t.Context())
		if got := s.take(ctx, 4); got != 4 {
			t.Fatalf("took %d", got)
		}
		taken := make(chan int)
		go func() { taken <- s.take(ctx, 10) }()
		for range 2 {
			s.put(1)
			synctest.Wait()
			select {
			case n := <-taken:
				t.Fatalf("took %d", n)
			default:
			}
		}
		if n := <-taken; n != 2 {
			t.Errorf("took %d, want both that came back soon", n)
		}
		go func() { taken <- s.take(ctx, 10) }()
		s.put(1) // and it waits for another
		synctest.Wait()
		cancel()
		if n := <-taken; n != 0 {
			t.Errorf("took %d from a pool that stops", n)
		}
		if s.free != 1 {
			t.Errorf("%d slots are left", s.free)
		}
	})
}
