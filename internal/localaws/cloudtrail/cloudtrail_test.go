package cloudtrail_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	ebtypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const (
	account = "111122223333"
	region  = "us-east-1"
)

func newServer(t *testing.T, o localaws.Options) *localaws.Server {
	o.Account = account
	server := localaws.New(o)
	t.Cleanup(server.Close)
	return server
}

// as is the configuration of a caller whose calls are not retried.
func as(server *localaws.Server, accessKey string) aws.Config {
	cfg := inprocess.Config(server, region, accessKey)
	cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	return cfg
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var api smithy.APIError
	if code == "" && err != nil || code != "" && (!errors.As(err, &api) || api.ErrorCode() != code) {
		t.Errorf("error = %v, want %q", err, code)
	}
}

func TestTrails(t *testing.T) {
	server := newServer(t, localaws.Options{})
	c, ctx := cloudtrail.NewFromConfig(as(server, "ada")), t.Context()
	name, arn := aws.String("main"), "arn:aws:cloudtrail:us-east-1:111122223333:trail/main"
	in := &cloudtrail.CreateTrailInput{Name: name, S3BucketName: aws.String("logs"), IsMultiRegionTrail: aws.Bool(true), EnableLogFileValidation: aws.Bool(true)}
	created, err := c.CreateTrail(ctx, in)
	if err != nil || aws.ToString(created.TrailARN) != arn || !aws.ToBool(created.IsMultiRegionTrail) || !aws.ToBool(created.LogFileValidationEnabled) || !aws.ToBool(created.IncludeGlobalServiceEvents) {
		t.Fatalf("created %+v: %v", created, err)
	}
	_, err = c.CreateTrail(ctx, in)
	wantCode(t, err, "TrailAlreadyExistsException")
	_, err = c.CreateTrail(ctx, &cloudtrail.CreateTrailInput{Name: aws.String(strings.Repeat("x", 129)), S3BucketName: aws.String("logs")})
	wantCode(t, err, "InvalidTrailNameException")
	_, err = c.CreateTrail(ctx, &cloudtrail.CreateTrailInput{Name: aws.String("x"), S3BucketName: aws.String("logs")})
	wantCode(t, err, "InvalidTrailNameException")
	logging := func(want bool) {
		t.Helper()
		if status, err := c.GetTrailStatus(ctx, &cloudtrail.GetTrailStatusInput{Name: &arn}); err != nil || aws.ToBool(status.IsLogging) != want {
			t.Errorf("status %+v: %v, want logging %v", status, err, want)
		}
	}
	logging(false)
	_, err = c.StartLogging(ctx, &cloudtrail.StartLoggingInput{Name: name})
	wantCode(t, err, "")
	logging(true)
	_, err = c.StopLogging(ctx, &cloudtrail.StopLoggingInput{Name: name})
	wantCode(t, err, "")
	logging(false)
	_, err = c.UpdateTrail(ctx, &cloudtrail.UpdateTrailInput{Name: name, S3BucketName: aws.String("elsewhere"), IsMultiRegionTrail: aws.Bool(false)})
	wantCode(t, err, "")
	selectors, err := c.GetEventSelectors(ctx, &cloudtrail.GetEventSelectorsInput{TrailName: name})
	if err != nil || len(selectors.EventSelectors) != 1 || selectors.EventSelectors[0].ReadWriteType != types.ReadWriteTypeAll || !aws.ToBool(selectors.EventSelectors[0].IncludeManagementEvents) {
		t.Errorf("first selectors %+v: %v", selectors, err)
	}
	put := func(s types.EventSelector) error {
		_, err := c.PutEventSelectors(ctx, &cloudtrail.PutEventSelectorsInput{TrailName: name, EventSelectors: []types.EventSelector{s}})
		return err
	}
	wantCode(t, put(types.EventSelector{ExcludeManagementEventSources: []string{"s3.amazonaws.com"}}), "InvalidEventSelectorsException")
	wantCode(t, put(types.EventSelector{ExcludeManagementEventSources: []string{"kms.amazonaws.com"}}), "")
	described, err := c.DescribeTrails(ctx, &cloudtrail.DescribeTrailsInput{TrailNameList: []string{"main", "none"}})
	if err != nil || len(described.TrailList) != 1 {
		t.Fatalf("described %+v: %v", described, err)
	}
	if d := described.TrailList[0]; aws.ToString(d.S3BucketName) != "elsewhere" || aws.ToBool(d.IsMultiRegionTrail) || !aws.ToBool(d.HasCustomEventSelectors) || aws.ToString(d.HomeRegion) != region || aws.ToString(d.TrailARN) != arn {
		t.Errorf("described %+v", d)
	}
	server.SetIdentityPolicy("eve", func(action, _ string) bool { return action != "cloudtrail:DeleteTrail" })
	_, err = cloudtrail.NewFromConfig(as(server, "eve")).DeleteTrail(ctx, &cloudtrail.DeleteTrailInput{Name: name})
	wantCode(t, err, "AccessDeniedException")
	_, err = c.DeleteTrail(ctx, &cloudtrail.DeleteTrailInput{Name: name})
	wantCode(t, err, "")
	_, err = c.StartLogging(ctx, &cloudtrail.StartLoggingInput{Name: name})
	wantCode(t, err, "TrailNotFoundException")

	// Every change is an event of its own.
	out, err := c.LookupEvents(ctx, &cloudtrail.LookupEventsInput{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range slices.Backward(out.Events) {
		var r struct {
			ErrorCode         string          `json:"errorCode"`
			RequestParameters json.RawMessage `json:"requestParameters"`
		}
		if err := json.Unmarshal([]byte(*e.CloudTrailEvent), &r); err != nil {
			t.Fatal(err)
		}
		got = append(got, *e.EventName+" "+r.ErrorCode+string(r.RequestParameters))
	}
	if diff := cmp.Diff([]string{
		`CreateTrail {"name":"main","s3BucketName":"logs","isMultiRegionTrail":true,"enableLogFileValidation":true}`,
		`CreateTrail TrailAlreadyExistsException{"name":"main","s3BucketName":"logs","isMultiRegionTrail":true,"enableLogFileValidation":true}`,
		`CreateTrail InvalidTrailNameException{"name":"` + strings.Repeat("x", 129) + `","s3BucketName":"logs"}`,
		`CreateTrail InvalidTrailNameException{"name":"x","s3BucketName":"logs"}`,
		`StartLogging {"name":"main"}`,
		`StopLogging {"name":"main"}`,
		`UpdateTrail {"name":"main","s3BucketName":"elsewhere","isMultiRegionTrail":false}`,
		`PutEventSelectors InvalidEventSelectorsException{"trailName":"main","eventSelectors":[{"readWriteType":"All","includeManagementEvents":true,"dataResources":[],"excludeManagementEventSources":["s3.amazonaws.com"]}]}`,
		`PutEventSelectors {"trailName":"main","eventSelectors":[{"readWriteType":"All","includeManagementEvents":true,"dataResources":[],"excludeManagementEventSources":["kms.amazonaws.com"]}]}`,
		`DeleteTrail AccessDeniednull`,
		`DeleteTrail {"name":"main"}`,
		`StartLogging TrailNotFoundException{"name":"main"}`,
	}, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// Where a trail is required, what it does not log is no event; the call that
// silences it still is.
func TestTrailRequired(t *testing.T) {
	server := newServer(t, localaws.Options{TrailRequired: true})
	ctx, cfg := t.Context(), as(server, "ada")
	trails, keys, queues, rules := cloudtrail.NewFromConfig(cfg), kms.NewFromConfig(cfg), sqs.NewFromConfig(cfg), eventbridge.NewFromConfig(cfg)
	queue, err := queues.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String("q"), Attributes: map[string]string{
		"Policy": `{"Statement":{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*"}}`,
	}})
	wantCode(t, err, "")
	_, err = rules.PutRule(ctx, &eventbridge.PutRuleInput{Name: aws.String("r"), EventPattern: aws.String(`{"source":["aws.kms","aws.cloudtrail"]}`)})
	wantCode(t, err, "")
	_, err = rules.PutTargets(ctx, &eventbridge.PutTargetsInput{Rule: aws.String("r"), Targets: []ebtypes.Target{{Id: aws.String("1"), Arn: aws.String("arn:aws:sqs:us-east-1:111122223333:q")}}})
	wantCode(t, err, "")
	heard := func() (names []string) {
		_, err := keys.CreateKey(ctx, &kms.CreateKeyInput{})
		wantCode(t, err, "")
		out, err := queues.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: queue.QueueUrl, MaxNumberOfMessages: 10})
		wantCode(t, err, "")
		for _, m := range out.Messages {
			var e struct{ Detail struct{ EventName string } }
			if err := json.Unmarshal([]byte(*m.Body), &e); err != nil {
				t.Fatal(err)
			}
			names = append(names, e.Detail.EventName)
		}
		return names
	}
	name := aws.String("main")
	advanced := func(fields ...types.AdvancedFieldSelector) *cloudtrail.PutEventSelectorsInput {
		fields = append(fields, types.AdvancedFieldSelector{Field: aws.String("eventCategory"), Equals: []string{"Management"}})
		return &cloudtrail.PutEventSelectorsInput{TrailName: name, AdvancedEventSelectors: []types.AdvancedEventSelector{{FieldSelectors: fields}}}
	}
	basic := func(s types.EventSelector) *cloudtrail.PutEventSelectorsInput {
		return &cloudtrail.PutEventSelectorsInput{TrailName: name, EventSelectors: []types.EventSelector{s}}
	}
	put := func(in *cloudtrail.PutEventSelectorsInput) error {
		_, err := trails.PutEventSelectors(ctx, in)
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"no trail", func() error { return nil }, nil},
		{"a trail that does not log", func() error {
			_, err := trails.CreateTrail(ctx, &cloudtrail.CreateTrailInput{Name: name, S3BucketName: aws.String("logs")})
			return err
		}, []string{"CreateTrail"}},
		{"logging", func() error {
			_, err := trails.StartLogging(ctx, &cloudtrail.StartLoggingInput{Name: name})
			return err
		}, []string{"StartLogging", "CreateKey"}},
		{"without KMS", func() error {
			return put(basic(types.EventSelector{ExcludeManagementEventSources: []string{"kms.amazonaws.com"}}))
		}, []string{"PutEventSelectors"}},
		{"without management events", func() error {
			return put(basic(types.EventSelector{IncludeManagementEvents: aws.Bool(false)}))
		}, []string{"PutEventSelectors"}},
		{"reads only", func() error {
			return put(basic(types.EventSelector{ReadWriteType: types.ReadWriteTypeReadOnly}))
		}, []string{"PutEventSelectors"}},
		{"writes only", func() error {
			return put(basic(types.EventSelector{ReadWriteType: types.ReadWriteTypeWriteOnly}))
		}, []string{"PutEventSelectors", "CreateKey"}},
		{"without KMS, in the other form", func() error {
			return put(advanced(types.AdvancedFieldSelector{Field: aws.String("eventSource"), NotEquals: []string{"kms.amazonaws.com"}}))
		}, []string{"PutEventSelectors"}},
		{"all, in the other form", func() error { return put(advanced()) }, []string{"PutEventSelectors", "CreateKey"}},
		{"stopped", func() error {
			_, err := trails.StopLogging(ctx, &cloudtrail.StopLoggingInput{Name: name})
			return err
		}, []string{"StopLogging"}},
	} {
		wantCode(t, step.do(), "")
		if diff := cmp.Diff(step.want, heard()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
}

func TestLookupEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t, localaws.Options{})
		server.AddIdentity("ci", wire.Caller{Type: "AssumedRole", ARN: "arn:aws:sts::111122223333:assumed-role/deploy/run-1", PrincipalID: "AROADEPLOY:run-1"})
		ctx := t.Context()
		ada, ci := kms.NewFromConfig(as(server, "ada")), kms.NewFromConfig(as(server, "ci"))
		c := cloudtrail.NewFromConfig(as(server, "ada"))
		if err := server.Record([]byte(`{"eventSource":"ec2.amazonaws.com","eventName":"CreateVolume","eventID":"old","eventTime":"1999-01-01T00:00:00Z"}`)); err != nil {
			t.Fatal(err)
		}
		key, err := ada.CreateKey(ctx, &kms.CreateKeyInput{})
		wantCode(t, err, "")
		arn := *key.KeyMetadata.Arn
		time.Sleep(time.Hour)
		_, err = ci.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &arn})
		wantCode(t, err, "")
		_, err = ci.Encrypt(ctx, &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("x")})
		wantCode(t, err, "DisabledException")
		look := func(in *cloudtrail.LookupEventsInput) (names []string) {
			t.Helper()
			pages := cloudtrail.NewLookupEventsPaginator(c, in)
			for pages.HasMorePages() {
				time.Sleep(time.Second / 2) // as the quota asks
				out, err := pages.NextPage(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range out.Events {
					names = append(names, *e.EventName)
				}
			}
			return names
		}
		by := func(key types.LookupAttributeKey, value string) *cloudtrail.LookupEventsInput {
			return &cloudtrail.LookupEventsInput{LookupAttributes: []types.LookupAttribute{{AttributeKey: key, AttributeValue: &value}}}
		}
		for _, tc := range []struct {
			name string
			in   *cloudtrail.LookupEventsInput
			want []string
		}{
			{"all", &cloudtrail.LookupEventsInput{}, []string{"Encrypt", "DisableKey", "CreateKey"}},
			{"page by page", &cloudtrail.LookupEventsInput{MaxResults: aws.Int32(2)}, []string{"Encrypt", "DisableKey", "CreateKey"}},
			{"by key", by(types.LookupAttributeKeyResourceName, arn), []string{"Encrypt", "DisableKey", "CreateKey"}},
			{"by kind", by(types.LookupAttributeKeyResourceType, "AWS::KMS::Key"), []string{"Encrypt", "DisableKey", "CreateKey"}},
			{"by name", by(types.LookupAttributeKeyEventName, "DisableKey"), []string{"DisableKey"}},
			{"by source", by(types.LookupAttributeKeyEventSource, "s3.amazonaws.com"), nil},
			{"by user", by(types.LookupAttributeKeyUsername, "ada"), []string{"CreateKey"}},
			{"by session", by(types.LookupAttributeKeyUsername, "run-1"), []string{"Encrypt", "DisableKey"}},
			{"by access key", by(types.LookupAttributeKeyAccessKeyId, "ada"), []string{"CreateKey"}},
			{"reads", by(types.LookupAttributeKeyReadOnly, "true"), []string{"Encrypt"}},
			{"by id, beyond 90 days", by(types.LookupAttributeKeyEventId, "old"), nil},
			{"insights", &cloudtrail.LookupEventsInput{EventCategory: types.EventCategoryInsight}, nil},
			{"since", &cloudtrail.LookupEventsInput{StartTime: aws.Time(time.Now().Add(-time.Minute))}, []string{"Encrypt", "DisableKey"}},
			{"until", &cloudtrail.LookupEventsInput{EndTime: aws.Time(time.Now().Add(-time.Minute))}, []string{"CreateKey"}},
		} {
			if diff := cmp.Diff(tc.want, look(tc.in)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.name, diff)
			}
		}
		for code, in := range map[string]*cloudtrail.LookupEventsInput{
			"InvalidMaxResultsException":       {MaxResults: aws.Int32(51)},
			"InvalidNextTokenException":        {NextToken: aws.String("x")},
			"InvalidTimeRangeException":        {StartTime: aws.Time(time.Now()), EndTime: aws.Time(time.Now().Add(-time.Hour))},
			"InvalidLookupAttributesException": {LookupAttributes: []types.LookupAttribute{{AttributeKey: "EventId", AttributeValue: aws.String("a")}, {AttributeKey: "EventId", AttributeValue: aws.String("b")}}},
		} {
			time.Sleep(time.Second / 2)
			_, err := c.LookupEvents(ctx, in)
			wantCode(t, err, code)
		}
	})
}

// The account's quota is one for all who look up, and saves up no more than a second's worth.
func TestLookupQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t, localaws.Options{})
		ada, ci := cloudtrail.NewFromConfig(as(server, "ada")), cloudtrail.NewFromConfig(as(server, "ci"))
		time.Sleep(time.Hour)
		for i, call := range []struct {
			by    *cloudtrail.Client
			after time.Duration
			want  string
		}{
			{ada, 0, ""}, {ci, 0, ""}, {ada, 0, "ThrottlingException"}, {ci, 499 * time.Millisecond, "ThrottlingException"}, {ci, time.Millisecond, ""}, {ada, 0, "ThrottlingException"},
		} {
			time.Sleep(call.after)
			_, err := call.by.LookupEvents(t.Context(), &cloudtrail.LookupEventsInput{})
			if wantCode(t, err, call.want); t.Failed() {
				t.Fatalf("call %d", i)
			}
		}
	})
}

// A record can be looked up when CloudTrail has it, while its event has long arrived;
// and pages are in the order of the records' times, whenever they came.
func TestLookupDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t, localaws.Options{})
		server.Trail().Set(trail.Settings{LookupDelay: 5 * time.Minute})
		c := cloudtrail.NewFromConfig(as(server, "ada"))
		began := time.Now()
		for id, ago := range map[string]time.Duration{"b": 2 * time.Minute, "c": 3 * time.Minute, "a": time.Minute} {
			record := fmt.Sprintf(`{"eventSource":"kms.amazonaws.com","eventName":"DisableKey","eventID":%q,"eventTime":%q}`, id, trail.Time(began.Add(-ago)))
			if err := server.Record([]byte(record)); err != nil {
				t.Fatal(err)
			}
		}
		look := func(key types.LookupAttributeKey, value string) (ids []string) {
			pages := cloudtrail.NewLookupEventsPaginator(c, &cloudtrail.LookupEventsInput{
				LookupAttributes: []types.LookupAttribute{{AttributeKey: key, AttributeValue: &value}}, MaxResults: aws.Int32(1),
			})
			for pages.HasMorePages() {
				time.Sleep(time.Second / 2)
				out, err := pages.NextPage(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range out.Events {
					ids = append(ids, *e.EventId)
				}
			}
			return ids
		}
		time.Sleep(4*time.Minute + 55*time.Second)
		if got := look(types.LookupAttributeKeyEventId, "b"); got != nil {
			t.Errorf("found too early: %q", got)
		}
		time.Sleep(5 * time.Second)
		if got := look(types.LookupAttributeKeyEventId, "b"); !slices.Equal(got, []string{"b"}) {
			t.Errorf("found by id: %q", got)
		}
		if got := look(types.LookupAttributeKeyEventName, "DisableKey"); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("found by name: %q", got)
		}
	})
}

// The history is bounded and forgets the oldest, the reads for themselves.
func TestHistoryIsBounded(t *testing.T) {
	recorder := trail.New(trail.Config{Account: account, Region: region})
	defer recorder.Close()
	const records = 10_007
	recorder.Call(trail.Call{ReadOnly: true, EventID: "read"})
	for i := range records {
		recorder.Record(trail.Record{EventID: fmt.Sprint(i + 1)})
	}
	kept := recorder.History()
	if len(kept) != 10_001 {
		t.Fatalf("%d records are kept", len(kept))
	}
	for i, k := range kept {
		want := fmt.Sprint(records - i)
		if i == 10_000 {
			want = "read"
		}
		if got := k.Record().EventID; got != want {
			t.Fatalf("record %d is %s, want %s", i, got, want)
		}
	}
}
