package sqs

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// Keys is what SQS asks of KMS about the key of a queue: why it does not work, as a
// *wire.Error with KMS's own code. *kms.Service is one.
type Keys interface {
	Usable(keyID string) error
}

// Config says which account and Region a Service is in, and how its queue URLs
// start ("http://127.0.0.1:4566").
type Config struct {
	Account, Region, BaseURL string
	// Keys is the KMS of the same account and Region; nil says that every key works.
	Keys Keys
	// Trail records what changes the queues. Nil discards it.
	Trail *trail.Recorder
}

// Service is the queues of one account in one Region. It is an http.Handler
// that expects wire.WithRequest's values in the request's context.
type Service struct {
	config  Config
	json    map[string]wire.JSONOperation
	query   map[string]wire.QueryOperation
	closing context.Context // done when Close is called: ends long polls and move tasks
	close   context.CancelFunc
	tasks   sync.WaitGroup

	mu      sync.RWMutex
	queues  map[string]*queue    // by name
	deleted map[string]time.Time // names that may not be taken again for a minute
	moves   []*moveTask          // newest last
}

// New returns a Service without queues.
func New(c Config) *Service {
	if c.Trail == nil {
		c.Trail = trail.New(trail.Config{})
	}
	s := &Service{config: c, queues: map[string]*queue{}, deleted: map[string]time.Time{}}
	s.closing, s.close = context.WithCancel(context.Background())
	s.json, s.query = s.operations()
	return s
}

// Close ends long polls, which answer that there are no messages, and message
// move tasks, and waits for the tasks.
func (s *Service) Close() {
	s.close()
	s.tasks.Wait()
}

// Delivery is a message that an AWS service sends to a queue.
type Delivery struct {
	QueueARN, Body string
	Attributes     map[string]MessageAttribute
	// Service is the sending service's principal ("events.amazonaws.com"), and
	// SourceARN the rule or topic that it sends for: the queue policy sees both.
	Service, SourceARN string
	// GroupID is the message group, for fair queues; "" for none.
	GroupID string
}

// Deliver puts an AWS service's message into a queue if the queue's policy
// allows that service to send. The errors are those of SendMessage:
// QueueDoesNotExist, AccessDenied, InvalidParameterValue (see wire.IsCode).
func (s *Service) Deliver(d Delivery) error {
	q := s.byARN(d.QueueARN)
	if q == nil {
		return noQueue()
	}
	q.mu.Lock()
	set := q.settings
	q.mu.Unlock()
	request := iam.Request{
		Service: d.Service, Action: "sqs:SendMessage", Resource: q.arn,
		Context: map[string]string{"aws:SourceArn": d.SourceARN, "aws:SourceAccount": s.config.Account},
	}
	if set.policy == nil || set.policy.Evaluate(request) != iam.Allow {
		return denied(d.Service, request.Action, q.arn)
	}
	if err := s.checkKey(set); err != nil {
		return err
	}
	if err := checkMessage(d.Body, d.Attributes, set.maxSize); err != nil {
		return err
	}
	m := newMessage(d.Body, d.Attributes)
	m.senderID, m.groupID = d.Service, d.GroupID
	if !q.add(set.delay, m) {
		return noQueue()
	}
	return nil
}

// checkKey refuses what needs the queue's key while that does not work: at once,
// while AWS goes on with a data key for as long as KmsDataKeyReusePeriodSeconds
// says. Who may use the key is not checked.
func (s *Service) checkKey(set settings) *wire.Error {
	if set.keyID == "" || s.config.Keys == nil {
		return nil
	}
	err := s.config.Keys.Usable(set.keyID)
	if err == nil {
		return nil
	}
	e := wire.AsError(err)
	code := map[string]string{"DisabledException": "KmsDisabled", "KMSInvalidStateException": "KmsInvalidState", "NotFoundException": "KmsNotFound"}[e.Code]
	if code == "" {
		code = "KmsAccessDenied"
	}
	return errorf(code, "%s (Service: AWSKMS; Error Code: %s)", e.Message, e.Code)
}

// byURLWithKey is byURL for what needs the queue's key.
func (s *Service) byURLWithKey(ctx context.Context, queueURL, action string) (*queue, *wire.Error) {
	q, err := s.byURL(ctx, queueURL, action)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	set := q.settings
	q.mu.Unlock()
	return q, s.checkKey(set)
}

func newMessage(body string, attributes map[string]MessageAttribute) *message {
	return &message{id: wire.NewUUID(), body: body, bodyMD5: md5Hex(body), attributes: attributes, sent: time.Now()}
}

func denied(who, action, arn string) *wire.Error {
	return wire.Errorf(http.StatusForbidden, "AccessDenied", "User: %s is not authorized to perform: %s on resource: %s", who, strings.ToLower(action), arn)
}

// byARN returns the queue, or nil.
func (s *Service) byARN(arn string) *queue {
	name, ok := strings.CutPrefix(arn, "arn:aws:sqs:"+s.config.Region+":"+s.config.Account+":")
	if !ok {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.queues[name]
}

// byURL returns the queue of a queue URL if the caller may do the action on it.
// Only the URL's last two parts, account and name, count: clients reach
// localaws under more than one host name.
func (s *Service) byURL(ctx context.Context, queueURL, action string) (*queue, *wire.Error) {
	if queueURL == "" {
		return nil, missing("QueueUrl")
	}
	rest, name := cutLast(queueURL)
	_, account := cutLast(rest)
	s.mu.RLock()
	q := s.queues[name]
	s.mu.RUnlock()
	if q == nil || account != s.config.Account {
		return nil, noQueue()
	}
	return q, s.authorize(ctx, q, action)
}

func cutLast(s string) (before, after string) {
	i := strings.LastIndexByte(s, '/')
	return s[:max(i, 0)], s[i+1:]
}

// authorize applies the caller's identity policy and the queue's policy: a
// denial in either ends it; inside the account one of them must allow, from
// another account both.
func (s *Service) authorize(ctx context.Context, q *queue, action string) *wire.Error {
	c := wire.CallerFrom(ctx)
	q.mu.Lock()
	policy := q.settings.policy
	q.mu.Unlock()
	decision := iam.ImplicitDeny
	if policy != nil {
		decision = policy.Evaluate(iam.Request{
			Principal: c.ARN, RoleARN: c.RoleARN(), Account: c.AccountID,
			Action: "sqs:" + action, Resource: q.arn,
		})
	}
	may := c.May("sqs:"+action, q.arn)
	allowed := may || decision == iam.Allow
	if c.AccountID != "" && c.AccountID != s.config.Account {
		allowed = may && decision >= iam.AllowAccount
	}
	if decision == iam.ExplicitDeny || !allowed {
		return denied(c.ARN, "sqs:"+action, q.arn)
	}
	return nil
}

type createQueueInput struct {
	QueueName  string
	Attributes map[string]string `query:"Attribute"`
	Tags       map[string]string `json:"tags" query:"Tag"`
}

type queueURLOutput struct {
	QueueURL string `json:"QueueUrl" xml:"QueueUrl"`
}

func (s *Service) createQueue(ctx context.Context, in createQueueInput) (queueURLOutput, error) {
	name := in.QueueName
	if strings.HasSuffix(name, ".fifo") {
		return queueURLOutput{}, errorf("UnsupportedOperation", "localaws does not model FIFO queues")
	}
	if name == "" || len(name) > 80 || strings.ContainsFunc(name, func(r rune) bool { return !isWordRune(r) }) {
		return queueURLOutput{}, errorf("InvalidParameterValue", "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
	}
	arn := "arn:aws:sqs:" + s.config.Region + ":" + s.config.Account + ":" + name
	if c := wire.CallerFrom(ctx); !c.May("sqs:CreateQueue", arn) {
		return queueURLOutput{}, denied(c.ARN, "sqs:CreateQueue", arn)
	}
	attributes := merge(defaults, in.Attributes)
	set, err := s.check(arn, attributes)
	if err != nil {
		return queueURLOutput{}, err
	}
	now := time.Now()
	q := &queue{
		name: name, arn: arn, url: s.config.BaseURL + "/" + s.config.Account + "/" + name,
		tag:     wire.NewUUID()[:8],
		created: now, modified: now,
		attributes: attributes, settings: set, tags: maps.Clone(in.Tags),
		received: map[string]*message{},
	}
	s.mu.Lock()
	old := s.queues[name]
	switch {
	case old != nil:
	case now.Sub(s.deleted[name]) < time.Minute:
		err = errorf("QueueDeletedRecently", "You must wait 60 seconds after deleting a queue before you can create another with the same name.")
	default:
		delete(s.deleted, name)
		s.queues[name] = q
	}
	s.mu.Unlock()
	if err != nil {
		return queueURLOutput{}, err
	}
	if old != nil && !old.agrees(in.Attributes) {
		return queueURLOutput{}, errorf("QueueNameExists", "A queue already exists with the same name and a different value for attribute(s)")
	}
	return queueURLOutput{QueueURL: q.url}, nil
}

// agrees reports whether the queue has the attributes already.
func (q *queue) agrees(attributes map[string]string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return maps.Equal(q.attributes, merge(q.attributes, attributes))
}

// check checks the attributes of the queue with the ARN, and that its
// dead-letter queue exists and lets itself be used.
func (s *Service) check(arn string, attributes map[string]string) (settings, *wire.Error) {
	set, err := parseSettings(attributes)
	if err != nil || set.redrive == nil {
		return set, err
	}
	dlq := s.byARN(set.redrive.TargetARN)
	if dlq == nil {
		return set, invalidValue(attributes["RedrivePolicy"], "RedrivePolicy", "Dead letter target does not exist.")
	}
	if dlq.arn != arn { // SQS does not refuse a queue that is its own dead-letter queue
		dlq.mu.Lock()
		allowed := dlq.settings.allow.allows(arn)
		dlq.mu.Unlock()
		if !allowed {
			return set, invalidValue(attributes["RedrivePolicy"], "RedrivePolicy", "Dead letter target does not allow this queue as a source (RedriveAllowPolicy).")
		}
	}
	return set, nil
}

type queueInput struct {
	QueueURL string `json:"QueueUrl"`
}

func (s *Service) deleteQueue(ctx context.Context, in queueInput) error {
	q, err := s.byURL(ctx, in.QueueURL, "DeleteQueue")
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.queues, q.name)
	s.deleted[q.name] = time.Now()
	s.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deleted = true
	q.clear()
	q.wakeOne() // who finds the queue deleted wakes the next
	return nil
}

func (s *Service) purgeQueue(ctx context.Context, in queueInput) error {
	q, err := s.byURL(ctx, in.QueueURL, "PurgeQueue")
	if err != nil {
		return err
	}
	return asError(q.purge())
}

type getQueueURLInput struct {
	QueueName              string
	QueueOwnerAWSAccountID string `json:"QueueOwnerAWSAccountId"`
}

func (s *Service) getQueueURL(ctx context.Context, in getQueueURLInput) (queueURLOutput, error) {
	account := in.QueueOwnerAWSAccountID
	if account == "" {
		account = s.config.Account
	}
	q, err := s.byURL(ctx, account+"/"+in.QueueName, "GetQueueUrl")
	if err != nil {
		return queueURLOutput{}, err
	}
	return queueURLOutput{QueueURL: q.url}, nil
}

type listQueuesInput struct {
	QueueNamePrefix string
	MaxResults      *int
	NextToken       string
}

type listQueuesOutput struct {
	QueueURLs []string `json:"QueueUrls,omitempty" xml:"QueueUrl"`
	NextToken string   `json:",omitempty" xml:",omitempty"`
}

func (s *Service) listQueues(ctx context.Context, in listQueuesInput) (listQueuesOutput, error) {
	if c := wire.CallerFrom(ctx); !c.May("sqs:ListQueues", "*") {
		return listQueuesOutput{}, denied(c.ARN, "sqs:ListQueues", "*")
	}
	var urls []string
	for _, q := range s.all() {
		if strings.HasPrefix(q.name, in.QueueNamePrefix) {
			urls = append(urls, q.url)
		}
	}
	urls, next, err := page(urls, in.MaxResults, in.NextToken)
	return listQueuesOutput{QueueURLs: urls, NextToken: next}, err
}

// all returns the queues in the order of their names.
func (s *Service) all() []*queue {
	s.mu.RLock()
	queues := slices.Collect(maps.Values(s.queues))
	s.mu.RUnlock()
	slices.SortFunc(queues, func(a, b *queue) int { return strings.Compare(a.name, b.name) })
	return queues
}

// page returns the page of a sorted list that follows the token, which is the
// last item of the page before, and the next token. Without maxResults there
// is one page of at most 1,000, as AWS has it.
func page(list []string, maxResults *int, token string) ([]string, string, error) {
	size := 1000
	if maxResults != nil {
		if size = *maxResults; size < 1 || size > 1000 {
			return nil, "", invalidValue(size, "MaxResults", "Must be between 1 and 1000.")
		}
	}
	start, found := slices.BinarySearch(list, token)
	if found {
		start++
	}
	end := min(start+size, len(list))
	if end < len(list) && maxResults != nil {
		return list[start:end], list[end-1], nil
	}
	return list[start:end], "", nil
}

type deadLetterSourcesInput struct {
	QueueURL   string `json:"QueueUrl"`
	MaxResults *int
	NextToken  string
}

type deadLetterSourcesOutput struct {
	QueueURLs []string `json:"queueUrls" xml:"QueueUrl"`
	NextToken string   `json:",omitempty" xml:",omitempty"`
}

func (s *Service) listDeadLetterSourceQueues(ctx context.Context, in deadLetterSourcesInput) (deadLetterSourcesOutput, error) {
	dlq, err := s.byURL(ctx, in.QueueURL, "ListDeadLetterSourceQueues")
	if err != nil {
		return deadLetterSourcesOutput{}, err
	}
	urls := []string{}
	for _, q := range s.sources(dlq) {
		urls = append(urls, q.url)
	}
	urls, next, pageErr := page(urls, in.MaxResults, in.NextToken)
	return deadLetterSourcesOutput{QueueURLs: urls, NextToken: next}, pageErr
}

// sources returns the queues whose dead-letter queue is dlq.
func (s *Service) sources(dlq *queue) []*queue {
	return slices.DeleteFunc(s.all(), func(q *queue) bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.settings.redrive == nil || q.settings.redrive.TargetARN != dlq.arn
	})
}

type getAttributesInput struct {
	QueueURL       string   `json:"QueueUrl"`
	AttributeNames []string `query:"AttributeName"`
}

type attributesOutput struct {
	Attributes attributeMap `json:",omitempty" xml:"Attribute"`
}

func (s *Service) getQueueAttributes(ctx context.Context, in getAttributesInput) (attributesOutput, error) {
	q, err := s.byURL(ctx, in.QueueURL, "GetQueueAttributes")
	if err != nil {
		return attributesOutput{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settle(time.Now())
	attributes := maps.Clone(q.attributes)
	attributes["QueueArn"] = q.arn
	attributes["CreatedTimestamp"] = strconv.FormatInt(q.created.Unix(), 10)
	attributes["LastModifiedTimestamp"] = strconv.FormatInt(q.modified.Unix(), 10)
	attributes["ApproximateNumberOfMessages"] = strconv.Itoa(q.ready.live)
	attributes["ApproximateNumberOfMessagesNotVisible"] = strconv.Itoa(len(q.inFlight))
	attributes["ApproximateNumberOfMessagesDelayed"] = strconv.Itoa(len(q.delayed))
	if slices.Contains(in.AttributeNames, "All") {
		return attributesOutput{Attributes: attributes}, nil
	}
	chosen := attributeMap{}
	for _, name := range in.AttributeNames {
		value, ok := attributes[name]
		if ok {
			chosen[name] = value
		} else if !slices.Contains([]string{"Policy", "RedrivePolicy", "RedriveAllowPolicy", "KmsMasterKeyId", "KmsDataKeyReusePeriodSeconds"}, name) {
			return attributesOutput{}, errorf("InvalidAttributeName", "Unknown Attribute %s.", name)
		}
	}
	return attributesOutput{Attributes: chosen}, nil
}

type setAttributesInput struct {
	QueueURL   string            `json:"QueueUrl"`
	Attributes map[string]string `query:"Attribute"`
}

func (s *Service) setQueueAttributes(ctx context.Context, in setAttributesInput) error {
	q, err := s.byURL(ctx, in.QueueURL, "SetQueueAttributes")
	if err != nil {
		return err
	}
	if len(in.Attributes) == 0 {
		return missing("Attributes")
	}
	q.mu.Lock()
	attributes := merge(q.attributes, in.Attributes)
	q.mu.Unlock()
	set, err := s.check(q.arn, attributes)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.attributes, q.settings, q.modified = attributes, set, time.Now()
	return nil
}

type tagsOutput struct {
	Tags tagMap `json:",omitempty" xml:"Tag"`
}

func (s *Service) listQueueTags(ctx context.Context, in queueInput) (tagsOutput, error) {
	q, err := s.byURL(ctx, in.QueueURL, "ListQueueTags")
	if err != nil {
		return tagsOutput{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return tagsOutput{Tags: maps.Clone(q.tags)}, nil
}

type tagQueueInput struct {
	QueueURL string            `json:"QueueUrl"`
	Tags     map[string]string `query:"Tag"`
}

func (s *Service) tagQueue(ctx context.Context, in tagQueueInput) error {
	q, err := s.byURL(ctx, in.QueueURL, "TagQueue")
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	tags := maps.Clone(q.tags)
	if tags == nil {
		tags = map[string]string{}
	}
	maps.Copy(tags, in.Tags)
	if len(tags) > 50 {
		return invalidValue(len(tags), "Tags", "Too many tags added to queue.")
	}
	q.tags = tags
	return nil
}

type untagQueueInput struct {
	QueueURL string   `json:"QueueUrl"`
	TagKeys  []string `query:"TagKey"`
}

func (s *Service) untagQueue(ctx context.Context, in untagQueueInput) error {
	q, err := s.byURL(ctx, in.QueueURL, "UntagQueue")
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range in.TagKeys {
		delete(q.tags, key)
	}
	return nil
}

// asError returns err without making a nil *wire.Error an error.
func asError(err *wire.Error) error {
	if err == nil {
		return nil
	}
	return err
}

// ServeHTTP answers one request, in the JSON protocol when it has an
// X-Amz-Target header, else in the query protocol.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Amz-Target") != "" {
		wire.ServeJSON(w, r, s.json)
		return
	}
	if r.ParseForm() == nil && !r.Form.Has("QueueUrl") {
		r.Form.Set("QueueUrl", r.URL.Path) // a request may go to the queue's URL instead of naming it
	}
	wire.ServeQuery(w, r, queryNamespace, s.query)
}
