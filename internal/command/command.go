// Package command makes the commands that people may paste into a shell.
//
// A command consists of constant text and of values, each of which has the form that
// AWS allows in its place. Where a value has another form there is no command, but a
// sentence that says which value and why: no quoting has to hold against the shell, the
// chat and the mail at once. What a command consists of needs no escaping in any of them.
package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Format is a command with a %s in the place of each value. It is a constant: what is
// not known when the program is built is a Value.
type Format string

// Value is a value in a command. The zero value is one that is missing.
type Value struct {
	text string
	// why says what is wrong with it, "" for nothing.
	why string
}

// Or returns the value, or the placeholder where the value is missing: a word in
// capitals that the reader replaces.
func (v Value) Or(placeholder Format) Value {
	if v.text == "" {
		return Value{text: string(placeholder)}
	}
	return v
}

// of returns what makes values of a form.
func of(what, pattern string) func(string) Value {
	form := whole(pattern)
	return func(s string) Value {
		switch {
		case s == "":
			return Value{why: what + " is not known"}
		// The AWS CLI loads a value that is an address.
		case !form().MatchString(s), strings.Contains(s, "://") && !strings.HasPrefix(pattern, "https://"):
			return Value{text: s, why: fmt.Sprintf("%s is not of the form of %s that can be pasted safely", brief(s), what)}
		}
		return Value{text: s}
	}
}

// whole matches texts that are a pattern from end to end. It is compiled at first use.
func whole(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\A(?:` + pattern + `)\z`) })
}

// brief shows a text on one line of printable ASCII.
func brief(s string) string {
	const limit = 100
	if len(s) > limit {
		return strconv.QuoteToASCII(s[:limit]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

const (
	partition  = `aws[a-z-]{0,20}`
	region     = `[a-z]{2,5}(?:-[a-z]{2,12}){1,3}-[0-9]{1,2}`
	account    = `[0-9]{12}`
	keyID      = `(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})`
	kmsARN     = `arn:` + partition + `:kms:` + region + `:` + account + `:`
	alias      = `alias/[A-Za-z0-9/_-]{1,250}`
	iamName    = `[A-Za-z0-9_+=,.@][A-Za-z0-9_+=,.@-]{0,127}`
	iamPath    = `(?:[A-Za-z0-9_+=,.@-]+/)*`
	bucketName = `[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]`
)

// The forms. Each returns the value that a text is.
var (
	Region  = of("a Region", region)
	Account = of("an account id", account)
	// KeyID is a key's id, Key its ARN, BucketKey what a bucket's default encryption names.
	KeyID     = of("a key id", keyID)
	Key       = of("a key ARN", kmsARN+`key/`+keyID)
	BucketKey = of("a key ARN, key id or alias", `(?:`+kmsARN+`)?(?:key/)?`+keyID+`|(?:`+kmsARN+`)?`+alias)
	Alias     = of("an alias name", alias)
	// TagKey is an AWS tag key in ASCII that the AWS CLI does not read as an option.
	TagKey = of("a tag key", `[A-Za-z0-9_.:/=+@][A-Za-z0-9_.:/=+@ -]{0,127}`)
	// TagValue is an AWS tag value in ASCII, for a Document.
	TagValue = of("a tag value", `[A-Za-z0-9_.:/=+@][A-Za-z0-9_.:/=+@ -]{0,255}`)
	GrantID  = of("a grant id", `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`)
	Bucket   = of("a bucket name", bucketName)
	// Prefix is the beginning of the keys of S3 objects.
	Prefix = of("an object prefix", `[A-Za-z0-9/!_.*()=:+,@~][A-Za-z0-9/!_.*()=:+,@~ -]{0,500}`)
	// Role and User are names without a path, Session is a role session's.
	Role        = of("a role name", iamName)
	User        = of("a user name", iamName)
	Session     = of("a session name", iamName)
	AccessKeyID = of("an access key id", `[A-Za-z0-9_]{1,128}`)
	// Principal is the ARN of what calls AWS: of a role, a session, a user or an account's root.
	Principal = of("a principal's ARN", `arn:`+partition+`:(?:iam|sts)::`+account+`:(?:root|(?:role|user|assumed-role|federated-user)/`+iamPath+iamName+`)`)
	Trail     = of("a trail's name or ARN", `(?:arn:`+partition+`:cloudtrail:`+region+`:`+account+`:trail/)?[A-Za-z0-9][A-Za-z0-9._-]{2,127}`)
	Rule      = of("a rule name", `[A-Za-z0-9_.][A-Za-z0-9_.-]{0,63}`)
	Queue     = of("a queue URL", `https://[a-z0-9.-]{1,100}\.(?:amazonaws\.com|amazonaws\.com\.cn|api\.aws)/`+account+`/[A-Za-z0-9_-]{1,80}(?:\.fifo)?`)
	// QueueName and QueueARN are a queue's without its URL.
	QueueName = of("a queue name", `[A-Za-z0-9_][A-Za-z0-9_-]{0,79}(?:\.fifo)?`)
	QueueARN  = of("a queue ARN", `arn:`+partition+`:sqs:`+region+`:`+account+`:[A-Za-z0-9_-]{1,80}(?:\.fifo)?`)
	Topic     = of("a topic ARN", `arn:`+partition+`:sns:`+region+`:`+account+`:[A-Za-z0-9_-]{1,256}(?:\.fifo)?`)
	KeyStore  = of("a key store id", `cks-[0-9a-z]{1,60}`)
	// EventID is CloudTrail's eventID.
	EventID = of("an event id", `[0-9A-Za-z]{8}(?:-[0-9A-Za-z]{4}){3}-[0-9A-Za-z]{12}`)
	// Rotation is the id of a rotation of cmkeeper's.
	Rotation = of("a rotation id", `[0-9]{8}-[a-z0-9]{4,26}`)
	Job      = of("a job id", `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`)
)

// Number is a count.
func Number(n int) Value { return Value{text: strconv.Itoa(n)} }

// BaselineOf names the recorded version of a key's policy.
func BaselineOf(key Value, version int) Value {
	return key.with(key.text + "@" + strconv.Itoa(version))
}

// DiffSource names the recorded version for a comparison.
func DiffSource(key Value, version int) Value {
	return key.with("baseline:" + key.text + "@" + strconv.Itoa(version))
}

// Lookup is an attribute that CloudTrail is asked for. A value with a character that
// the AWS CLI's short form acts on is in JSON.
func Lookup(attribute Format, v Value) Value {
	if strings.ContainsAny(v.text, ",=@'\"[]{} ") {
		return Document([]struct{ AttributeKey, AttributeValue string }{{string(attribute), v.text}}, v)
	}
	return v.with("AttributeKey=" + string(attribute) + ",AttributeValue=" + v.text)
}

// Document is v as JSON, of which parts are what is not constant.
func Document(v any, parts ...Value) Value {
	for _, p := range parts {
		if p.text == "" || p.why != "" {
			return p
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return Value{why: "the document cannot be made: " + err.Error()}
	}
	return Value{text: strings.TrimSuffix(b.String(), "\n")}
}

// with returns another text that is as good as the value.
func (v Value) with(text string) Value {
	if v.text == "" || v.why != "" {
		return v
	}
	return Value{text: text}
}

// Line returns the command with its values in their places, each as one word; or, where
// one is missing or not of its form, a sentence that says so. Is tells them apart.
func Line(format Format, values ...Value) string {
	var b strings.Builder
	for i, constant := range strings.Split(string(format), "%s") {
		if i > 0 {
			v := Value{why: "a value is missing"}
			if i <= len(values) {
				v = values[i-1]
			}
			if v.text == "" || v.why != "" {
				return none(format, v.why)
			}
			b.WriteString(word(v.text))
		}
		b.WriteString(constant)
	}
	if line := b.String(); Safe(line) {
		return line
	}
	return none(format, "it would contain a character that cannot be pasted safely")
}

// none says that there is no command, and why.
func none(format Format, why string) string {
	what, _, _ := strings.Cut(string(format), " --")
	what, _, _ = strings.Cut(what, " %s")
	if why == "" {
		why = "a value is missing"
	}
	return fmt.Sprintf("There is no command for %q here: %s.", what, why)
}

// plain are the words that no shell acts on, quotable what it does not act on between
// single quotes, and what mail and chat show as it is.
const (
	plain    = `[A-Za-z0-9_./:=@%+,-]+`
	quotable = `'[ !"#$%()*+,\-./0-9:;=?@A-Z\[\]^_a-z{|}~]*'`
)

var (
	plainWord = whole(plain)
	safe      = whole(`(?:aws|cmkeeper)(?: (?:` + plain + `|` + quotable + `))+(?: > [a-z]+\.json)?`)
)

// word quotes a value that a shell acts on. Safe refuses what quotes do not hold.
func word(s string) string {
	if plainWord().MatchString(s) {
		return s
	}
	return "'" + s + "'"
}

// Is reports whether a text is offered as a command: it begins as one.
func Is(text string) bool {
	return strings.HasPrefix(text, "aws ") || strings.HasPrefix(text, "cmkeeper ")
}

// Safe reports whether a command consists of words alone that every shell leaves as
// they are, between single quotes or not, with a file at the end that the output goes to
// or without.
func Safe(line string) bool { return safe().MatchString(line) }
