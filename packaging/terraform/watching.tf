# Where the journal goes when it is shipped, and who is told when something is wrong.

locals {
  log_group      = "/perch/${var.name}"
  retention_days = var.log_retention_days != null ? var.log_retention_days : local.production ? 90 : 7
  told           = concat(var.alarm_topic_arns, aws_sns_topic.alarms[*].arn)
  host_ids       = aws_instance.host[*].id
}

# It is there in any case: it costs nothing while it is empty, and shipping can be switched on without losing a line.
resource "aws_cloudwatch_log_group" "journal" {
  # checkov:skip=CKV_AWS_338: kept as long as log_retention_days says; a year of a development host's journal is nobody's need.
  # checkov:skip=CKV_AWS_158: encrypted with CloudWatch's key; perch writes no secret to its journal.
  name              = local.log_group
  retention_in_days = local.retention_days
}

# Nothing in the journal has the level ERROR unless a person has to act. The agent has an entry's fields in one named body.
resource "aws_cloudwatch_log_metric_filter" "errors" {
  count = var.ship_journal ? 1 : 0

  name           = "${var.name}-errors"
  log_group_name = aws_cloudwatch_log_group.journal.name
  pattern        = "{ ($.body.PRIORITY = \"3\") || ($.PRIORITY = \"3\") }"

  metric_transformation {
    name      = "${var.name}-errors"
    namespace = "perch"
    value     = "1"
  }
}

resource "aws_cloudwatch_metric_alarm" "errors" {
  count = var.ship_journal ? 1 : 0

  alarm_name          = "${var.name}-errors"
  alarm_description   = "perch wrote an ERROR to its journal: a person has to act, and the entry says what to do."
  namespace           = "perch"
  metric_name         = "${var.name}-errors"
  statistic           = "Sum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  period              = 300
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.told
  ok_actions          = local.told
}

# One host: AWS moves it when the machine below it fails, and starts it again when it does not answer any more.
resource "aws_cloudwatch_metric_alarm" "machine" {
  count = var.web == null ? 1 : 0

  alarm_name          = "${var.name}-machine"
  alarm_description   = "The machine below the host fails; AWS moves the host to another."
  namespace           = "AWS/EC2"
  metric_name         = "StatusCheckFailed_System"
  dimensions          = { InstanceId = local.host_ids[0] }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  period              = 60
  evaluation_periods  = 2
  alarm_actions       = concat(["arn:${data.aws_partition.current.partition}:automate:${var.region}:ec2:recover"], local.told)
  ok_actions          = local.told
}

resource "aws_cloudwatch_metric_alarm" "system" {
  count = var.web == null ? 1 : 0

  alarm_name          = "${var.name}-system"
  alarm_description   = "The host's operating system does not answer; AWS starts it again."
  namespace           = "AWS/EC2"
  metric_name         = "StatusCheckFailed_Instance"
  dimensions          = { InstanceId = local.host_ids[0] }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  period              = 60
  evaluation_periods  = 3
  alarm_actions       = concat(["arn:${data.aws_partition.current.partition}:automate:${var.region}:ec2:reboot"], local.told)
  ok_actions          = local.told
}

resource "aws_cloudwatch_metric_alarm" "credits" {
  count = var.web == null && startswith(var.instance_type, "t") ? 1 : 0

  alarm_name          = "${var.name}-credits"
  alarm_description   = "The host has had almost no CPU credits left for three hours, and is slow: it needs a larger instance_type."
  namespace           = "AWS/EC2"
  metric_name         = "CPUCreditBalance"
  dimensions          = { InstanceId = local.host_ids[0] }
  statistic           = "Minimum"
  comparison_operator = "LessThanThreshold"
  threshold           = 10

  # A t3 or t4g begins without credits, and in standard mode gets none for its launch; a nano earns six an hour. Three hours
  # are as long as every one of them needs, with what its first start spends. Until there are as many values, it is not low.
  # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-performance-instances-standard-mode-concepts.html
  period             = 300
  evaluation_periods = 36
  treat_missing_data = "notBreaching"
  alarm_actions      = local.told
  ok_actions         = local.told
}

# Groups: AWS replaces hosts by itself; what it does not mend is told.
resource "aws_cloudwatch_metric_alarm" "bot" {
  count = var.web == null ? 0 : 1

  alarm_name          = "${var.name}-bot"
  alarm_description   = "There is no host for the Discord session, and Auto Scaling did not bring one up within ten minutes."
  namespace           = "AWS/AutoScaling"
  metric_name         = "GroupInServiceInstances"
  dimensions          = { AutoScalingGroupName = aws_autoscaling_group.bot[0].name }
  statistic           = "Maximum"
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  period              = 60
  evaluation_periods  = 10
  treat_missing_data  = "breaching"
  alarm_actions       = local.told
  ok_actions          = local.told
}

# Each of the load balancer's nodes asks every host, those of other zones too, and reports how many of them all are healthy.
# The least of these reports is no sum: neither zones nor nodes are to be added up. They come without any request as well.
# https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-cloudwatch-metrics.html#metric-statistics
# https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html
resource "aws_cloudwatch_metric_alarm" "ready" {
  count = var.web == null ? 0 : 1

  alarm_name          = "${var.name}-ready"
  alarm_description   = "Fewer HTTP hosts answer /ready with 200 than the group's minimum."
  namespace           = "AWS/ApplicationELB"
  metric_name         = "HealthyHostCount"
  dimensions          = { LoadBalancer = aws_lb.web[0].arn_suffix, TargetGroup = aws_lb_target_group.web[0].arn_suffix }
  statistic           = "Minimum"
  comparison_operator = "LessThanThreshold"
  threshold           = var.web.minimum
  period              = 60
  evaluation_periods  = 10
  treat_missing_data  = "breaching"
  alarm_actions       = local.told
  ok_actions          = local.told
}

resource "aws_cloudwatch_metric_alarm" "failures" {
  count = var.web == null ? 0 : 1

  alarm_name          = "${var.name}-failures"
  alarm_description   = "More than ten requests in five minutes were answered with a 5xx: the journal has the request ids."
  namespace           = "AWS/ApplicationELB"
  metric_name         = "HTTPCode_Target_5XX_Count"
  dimensions          = { LoadBalancer = aws_lb.web[0].arn_suffix }
  statistic           = "Sum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 10
  period              = 300
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.told
  ok_actions          = local.told
}

resource "aws_sns_topic" "alarms" {
  count = var.alarm_email == null ? 0 : 1

  # checkov:skip=CKV_AWS_26: CloudWatch can't publish to a topic under AWS's own key; what an alarm says is no secret.
  name = "${var.name}-alarms"
}

resource "aws_sns_topic_policy" "alarms" {
  count = var.alarm_email == null ? 0 : 1

  arn = aws_sns_topic.alarms[0].arn
  policy = templatefile("${path.module}/policies/alarms.json.tftpl", {
    topic_arn = aws_sns_topic.alarms[0].arn
    account   = data.aws_caller_identity.current.account_id
  })
}

resource "aws_sns_topic_subscription" "alarms" {
  count = var.alarm_email == null ? 0 : 1

  topic_arn = aws_sns_topic.alarms[0].arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

data "aws_partition" "current" {}

data "aws_caller_identity" "current" {}
