// Package sns is Amazon SNS's standard topics in memory, with SQS
// subscriptions: filter policies, raw delivery, message structures, and the
// queue policies and size limits that stand between a message and its queue.
// FIFO topics and other protocols are not modelled and refused.
package sns

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/pattern"
	"github.com/cmkeeper/cmkeeper/internal/localaws/sqs"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const (
	namespace = "http://sns.amazonaws.com/doc/2010-03-31/"
	principal = "sns.amazonaws.com"
	pageSize  = 100
)

// Queues is where subscriptions end; *sqs.Service is one.
type Queues interface {
	Deliver(d sqs.Delivery) error
}

// Keys is what SNS asks of KMS about the key of a topic: why it does not work, as a
// *wire.Error with KMS's own code. *kms.Service is one.
type Keys interface {
	Usable(keyID string) error
}

// Config says which account and Region a Service is in, and where its
// subscriptions end.
type Config struct {
	Account, Region string
	Queues          Queues
	// Keys is the KMS of the same account and Region; nil says that every key works.
	Keys Keys
	// Trail records what changes the topics. Nil discards it.
	Trail *trail.Recorder
}

// Service is the topics of one account in one Region. It is an http.Handler
// that expects wire.WithRequest's values in the request's context.
type Service struct {
	config     Config
	operations map[string]wire.QueryOperation

	mu            sync.RWMutex
	topics        map[string]*topic        // by ARN
	subscriptions map[string]*subscription // by ARN
}

// topic is a topic; the service's lock guards it.
type topic struct {
	arn        string
	attributes map[string]string // as set
	policy     *iam.Policy       // nil where none was set
	tags       map[string]string
}

// subscription is an SQS subscription; the service's lock guards it.
type subscription struct {
	arn, topicARN, queueARN, principal string
	attributes                         map[string]string // as set
	settings                           subscriptionSettings
}

// subscriptionSettings is what a subscription's attributes mean.
type subscriptionSettings struct {
	raw           bool
	filter        *pattern.Pattern // nil lets everything pass
	filterBody    bool             // the filter sees the body, not the attributes
	deadLetterARN string
}

// New returns a Service without topics.
func New(c Config) *Service {
	if c.Trail == nil {
		c.Trail = trail.New(trail.Config{})
	}
	s := &Service{config: c, topics: map[string]*topic{}, subscriptions: map[string]*subscription{}}
	s.operations = map[string]wire.QueryOperation{
		"CreateTopic":               s.createTopic,
		"DeleteTopic":               s.deleteTopic,
		"GetSubscriptionAttributes": s.getSubscriptionAttributes,
		"GetTopicAttributes":        s.getTopicAttributes,
		"ListSubscriptions":         s.listSubscriptions,
		"ListSubscriptionsByTopic":  s.listSubscriptionsByTopic,
		"ListTagsForResource":       s.listTagsForResource,
		"ListTopics":                s.listTopics,
		"Publish":                   s.publish,
		"PublishBatch":              s.publishBatch,
		"SetSubscriptionAttributes": s.setSubscriptionAttributes,
		"SetTopicAttributes":        s.setTopicAttributes,
		"Subscribe":                 s.subscribe,
		"TagResource":               s.tagResource,
		"Unsubscribe":               s.unsubscribe,
		"UntagResource":             s.untagResource,
	}
	for _, name := range []string{"CreateTopic", "DeleteTopic", "SetSubscriptionAttributes", "SetTopicAttributes", "Subscribe", "TagResource", "Unsubscribe", "UntagResource"} {
		s.operations[name] = s.recorded(name, s.operations[name])
	}
	return s
}

// ServeHTTP answers one request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wire.ServeQuery(w, r, namespace, s.operations)
}

func invalid(format string, args ...any) *wire.Error {
	return wire.Errorf(400, "InvalidParameter", "Invalid parameter: "+format, args...)
}

func notFound(what string) *wire.Error {
	return wire.Errorf(http.StatusNotFound, "NotFound", "%s does not exist", what)
}

func denied(ctx context.Context, action, resource string) *wire.Error {
	return wire.Errorf(http.StatusForbidden, "AuthorizationError", "User: %s is not authorized to perform: SNS:%s on resource: %s", wire.CallerFrom(ctx).ARN, action, resource)
}

// authorize applies the caller's identity policy and the topic's policy: a
// denial in either ends it; inside the account one of them must allow, from
// another account both. The caller holds the lock.
func (s *Service) authorize(ctx context.Context, action string, t *topic) error {
	c := wire.CallerFrom(ctx)
	decision := iam.ImplicitDeny
	if t.policy != nil {
		decision = t.policy.Evaluate(iam.Request{
			Principal: c.ARN, RoleARN: c.RoleARN(), Account: c.AccountID,
			Action: "sns:" + action, Resource: t.arn,
		})
	}
	may := c.May("sns:"+action, t.arn)
	allowed := may || decision == iam.Allow
	if c.AccountID != "" && c.AccountID != s.config.Account {
		allowed = may && decision >= iam.AllowAccount
	}
	if decision == iam.ExplicitDeny || !allowed {
		return denied(ctx, action, t.arn)
	}
	return nil
}

// topic returns the topic if the caller may do the action on it. The caller
// holds the lock.
func (s *Service) topic(ctx context.Context, arn, action string) (*topic, error) {
	if !strings.HasPrefix(arn, "arn:aws:sns:") || strings.Count(arn, ":") != 5 {
		return nil, invalid("TopicArn")
	}
	t := s.topics[arn]
	if t == nil {
		return nil, notFound("Topic")
	}
	return t, s.authorize(ctx, action, t)
}

// entries returns a map parameter ("Attributes.entry.1.key", ".value").
func entries(form url.Values, name, key, value string) map[string]string {
	m := map[string]string{}
	for _, e := range wire.QueryList(form, name) {
		m[e.Get(key)] = e.Get(value)
	}
	return m
}

type topicARNOutput struct {
	TopicARN string `xml:"TopicArn"`
}

func (s *Service) createTopic(ctx context.Context, form url.Values) (any, error) {
	name := form.Get("Name")
	if strings.HasSuffix(name, ".fifo") {
		return nil, invalid("Topic Name: localaws does not model FIFO topics")
	}
	if name == "" || len(name) > 256 || strings.ContainsFunc(name, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return nil, invalid("Topic Name")
	}
	t := &topic{
		arn:        "arn:aws:sns:" + s.config.Region + ":" + s.config.Account + ":" + name,
		attributes: map[string]string{},
		tags:       entries(form, "Tags.member", "Key", "Value"),
	}
	if c := wire.CallerFrom(ctx); !c.May("sns:CreateTopic", t.arn) {
		return nil, denied(ctx, "CreateTopic", t.arn)
	}
	for name, value := range entries(form, "Attributes.entry", "key", "value") {
		if err := t.set(name, value); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.topics[t.arn]; old == nil {
		s.topics[t.arn] = t
	} else {
		for name, value := range t.attributes {
			if old.attributes[name] != value {
				return nil, invalid("Attributes Reason: Topic already exists with different attributes")
			}
		}
	}
	return topicARNOutput{t.arn}, nil
}

// set sets an attribute of the topic.
func (t *topic) set(name, value string) error {
	switch name {
	case "Policy":
		policy, err := iam.Parse([]byte(value))
		if err != nil {
			return invalid("Policy Error: %v", err)
		}
		t.policy = policy
	case "DisplayName", "KmsMasterKeyId", "DeliveryPolicy", "TracingConfig":
	case "SignatureVersion":
		if value != "1" && value != "2" {
			return invalid("SignatureVersion")
		}
	default:
		return invalid("AttributeName")
	}
	t.attributes[name] = value
	return nil
}

// deleteTopic succeeds for a topic that is not there, as on AWS.
func (s *Service) deleteTopic(ctx context.Context, form url.Values) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, form.Get("TopicArn"), "DeleteTopic")
	if wire.IsCode(err, "NotFound") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	delete(s.topics, t.arn)
	maps.DeleteFunc(s.subscriptions, func(_ string, sub *subscription) bool { return sub.topicARN == t.arn })
	return nil, nil
}

// pairs is a map in the query protocol's form.
type pairs map[string]string

// MarshalXML writes <entry><key/><value/></entry> for each pair.
func (p pairs) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	type pair struct {
		Key   string `xml:"key"`
		Value string `xml:"value"`
	}
	type list struct {
		Entries []pair `xml:"entry"`
	}
	var l list
	for _, name := range slices.Sorted(maps.Keys(p)) {
		l.Entries = append(l.Entries, pair{name, p[name]})
	}
	return e.EncodeElement(l, start)
}

type attributesOutput struct {
	Attributes pairs
}

func (s *Service) getTopicAttributes(ctx context.Context, form url.Values) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t, err := s.topic(ctx, form.Get("TopicArn"), "GetTopicAttributes")
	if err != nil {
		return nil, err
	}
	attributes := pairs{"DisplayName": ""}
	maps.Copy(attributes, t.attributes)
	attributes["TopicArn"] = t.arn
	attributes["Owner"] = s.config.Account
	attributes["SubscriptionsConfirmed"] = strconv.Itoa(len(s.of(t)))
	attributes["SubscriptionsPending"] = "0"
	attributes["SubscriptionsDeleted"] = "0"
	if attributes["Policy"] == "" {
		attributes["Policy"] = s.defaultPolicy(t.arn)
	}
	return attributesOutput{attributes}, nil
}

// defaultPolicy is the policy of a topic that was given none: the account may
// do everything, which is what no policy means here.
func (s *Service) defaultPolicy(arn string) string {
	type document struct {
		Version   string
		ID        string `json:"Id"`
		Statement any
	}
	policy, _ := json.Marshal(document{"2008-10-17", "__default_policy_ID", []any{struct { // strings always encode
		SID       string `json:"Sid"`
		Effect    string
		Principal map[string]string
		Action    []string
		Resource  string
		Condition map[string]map[string]string
	}{
		"__default_statement_ID", "Allow", map[string]string{"AWS": "*"},
		[]string{"SNS:GetTopicAttributes", "SNS:SetTopicAttributes", "SNS:AddPermission", "SNS:RemovePermission", "SNS:DeleteTopic", "SNS:Subscribe", "SNS:ListSubscriptionsByTopic", "SNS:Publish"},
		arn, map[string]map[string]string{"StringEquals": {"AWS:SourceOwner": s.config.Account}},
	}}})
	return string(policy)
}

func (s *Service) setTopicAttributes(ctx context.Context, form url.Values) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, form.Get("TopicArn"), "SetTopicAttributes")
	if err != nil {
		return nil, err
	}
	return nil, t.set(form.Get("AttributeName"), form.Get("AttributeValue"))
}

type topicsOutput struct {
	Topics    []topicARNOutput `xml:"Topics>member"`
	NextToken string           `xml:",omitempty"`
}

func (s *Service) listTopics(ctx context.Context, form url.Values) (any, error) {
	if c := wire.CallerFrom(ctx); !c.May("sns:ListTopics", "*") {
		return nil, denied(ctx, "ListTopics", "*")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	arns, next := page(slices.Sorted(maps.Keys(s.topics)), form.Get("NextToken"))
	out := topicsOutput{NextToken: next}
	for _, arn := range arns {
		out.Topics = append(out.Topics, topicARNOutput{arn})
	}
	return out, nil
}

// page returns the page of a sorted list that follows the token, which is the
// last item of the page before, and the next token.
func page(list []string, token string) (items []string, next string) {
	start, found := slices.BinarySearch(list, token)
	if found {
		start++
	}
	end := min(start+pageSize, len(list))
	if end < len(list) {
		next = list[end-1]
	}
	return list[start:end], next
}

type tag struct{ Key, Value string }

type tagsOutput struct {
	Tags []tag `xml:"Tags>member"`
}

func (s *Service) listTagsForResource(ctx context.Context, form url.Values) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t, err := s.topic(ctx, form.Get("ResourceArn"), "ListTagsForResource")
	if err != nil {
		return nil, err
	}
	var out tagsOutput
	for _, key := range slices.Sorted(maps.Keys(t.tags)) {
		out.Tags = append(out.Tags, tag{key, t.tags[key]})
	}
	return out, nil
}

// noResult is the empty result element of operations that answer with one.
type noResult struct{}

func (s *Service) tagResource(ctx context.Context, form url.Values) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, form.Get("ResourceArn"), "TagResource")
	if err != nil {
		return nil, err
	}
	tags := maps.Clone(t.tags)
	maps.Copy(tags, entries(form, "Tags.member", "Key", "Value"))
	if len(tags) > 50 {
		return nil, wire.Errorf(400, "TagLimitExceeded", "Could not complete request: tag quota of per resource exceeded")
	}
	t.tags = tags
	return noResult{}, nil
}

func (s *Service) untagResource(ctx context.Context, form url.Values) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, form.Get("ResourceArn"), "UntagResource")
	if err != nil {
		return nil, err
	}
	for _, key := range wire.QueryList(form, "TagKeys.member") {
		delete(t.tags, key.Get(""))
	}
	return noResult{}, nil
}
