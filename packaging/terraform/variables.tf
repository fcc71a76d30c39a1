# What it is and where

variable "name" {
  description = "What every resource is named after: one word for one installation."
  type        = string
  default     = "perch"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,20}[a-z0-9]$", var.name))
    error_message = "The name is 3 to 22 lower-case letters, digits and hyphens, beginning with a letter: a load balancer's name holds no more."
  }
}

variable "environment" {
  description = "`development`, `test` or `production`. Decides how long logs and the deleted secret are kept, and whether the load balancer and the bucket are guarded against deletion."
  type        = string

  validation {
    condition     = contains(["development", "test", "production"], var.environment)
    error_message = "The environment is development, test or production."
  }
}

variable "region" {
  description = "The region that the provider works in, for the commands among the outputs and for the hosts' own."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "A region reads like eu-central-1."
  }
}

variable "vpc_id" {
  description = "The network that the hosts live in."
  type        = string

  validation {
    condition     = can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "A VPC's id reads like vpc-0123456789abcdef0."
  }
}

variable "subnet_ids" {
  description = "Subnets with a route to the internet. One host takes the first; the load balancer needs two or more, in different zones."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) > 0 && alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "Name at least one subnet; its id reads like subnet-0123456789abcdef0."
  }

  validation {
    condition     = length(distinct(var.subnet_ids)) == length(var.subnet_ids)
    error_message = "Name each subnet once."
  }
}

variable "tags" {
  description = "Tags of the hosts and their volumes, which the provider's `default_tags` do not reach when a group starts them."
  type        = map(string)
  default     = {}
}

# What is installed and what it reads

variable "package" {
  description = "The package that a bare image installs at its first start. Either a `file` here, which goes into the bucket, or a `url` (`s3://` or `https://`) with the `sha256` that the file must have. `{architecture}` in the address is what such packages call the machine (`amd64` or `arm64`, `x86_64` or `aarch64`), and then the digests of both may be there, with a space between. Left out on an image that has perch."
  type = object({
    file   = optional(string)
    url    = optional(string)
    sha256 = optional(string)
  })
  default = null

  validation {
    condition     = var.package != null || var.ami_id != null || var.user_data != null
    error_message = "Without a package the hosts never have perch: name one, or with ami_id an image that has it, or user_data that installs it."
  }

  validation {
    condition     = var.package == null ? true : (var.package.file == null) != (var.package.url == null)
    error_message = "Either file or url."
  }

  validation {
    condition     = try(var.package.file, null) == null ? true : fileexists(var.package.file)
    error_message = "There is no such file; its path begins where terraform runs, or with a slash."
  }

  validation {
    condition     = try(var.package.file, null) == null ? true : can(regex("\\.(deb|rpm)$", var.package.file))
    error_message = "A package's name ends with .deb or .rpm."
  }

  validation {
    condition     = try(var.package.url, null) == null ? true : can(regex("^(s3|https)://[^'\"*$[:space:]\\\\]+$", var.package.url)) && can(regex("^[0-9a-f]{64}( [0-9a-f]{64})*$", var.package.sha256))
    error_message = "The address begins with s3:// or https://, and its sha256 is 64 hexadecimal digits: sha256sum FILE prints them."
  }

  validation {
    condition     = !can(regex("[{}]", replace(var.package.url, "{architecture}", "")))
    error_message = "Nothing but {architecture} is filled in in the package's address."
  }
}

variable "bucket" {
  description = "The configuration bucket's name. Without one, AWS makes a free one that begins with the name."
  type        = string
  default     = null

  validation {
    condition     = var.bucket == null ? true : can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket)) && !strcontains(var.bucket, "..")
    error_message = "A bucket's name is 3 to 63 lower-case letters, digits, hyphens and dots, and no two dots stand together."
  }
}

variable "configuration_versions" {
  description = "How many older versions of a configuration object stay in the bucket, to go back to, however old they are."
  type        = number
  default     = 50

  validation {
    condition     = var.configuration_versions >= 1 && var.configuration_versions <= 100 && floor(var.configuration_versions) == var.configuration_versions
    error_message = "S3 can be told to keep 1 to 100 older versions."
  }
}

variable "kms_key_arn" {
  description = "A key of your own for the bucket and the secrets, which the hosts may then use through these two services. Without one they are encrypted with AWS's."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null ? true : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "Name the key by its ARN (arn:aws:kms:REGION:ACCOUNT:key/ID), not by an alias: a role's policy does not see through aliases."
  }
}

# The hosts

variable "architecture" {
  description = "`x86_64` or `arm64`: what the package is built for and the image is looked up by."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "The architecture is x86_64 or arm64."
  }
}

variable "instance_type" {
  description = "The host that holds the Discord session."
  type        = string
  default     = "t3.micro"

  validation {
    condition     = can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", var.instance_type))
    error_message = "An instance type reads like t3.micro."
  }

  # AWS's own processors have a g after the generation's number: t4g, c7gn, im4gn. The first had no generation: a1.
  validation {
    condition     = can(regex("^([a-z]+[0-9]+[a-z]*g[a-z]*|a1)[.]", var.instance_type)) == (var.architecture == "arm64")
    error_message = "The instance type is not of the architecture: arm64 is t4g.micro and others with a g after the number, x86_64 those without, such as t3.micro."
  }
}

variable "ami_id" {
  description = "The image. Without one, the newest Amazon Linux 2023: then a newer image replaces the hosts at the next `apply`, and what is on their disks goes with them, so name one to choose the hour yourself."
  type        = string
  default     = null

  validation {
    condition     = var.ami_id == null ? true : can(regex("^ami-[0-9a-f]+$", var.ami_id))
    error_message = "An image's id reads like ami-0123456789abcdef0."
  }
}

variable "volume_gib" {
  description = "The root volume's size in GiB (gp3, encrypted)."
  type        = number
  default     = 8

  validation {
    condition     = var.volume_gib >= 8 && var.volume_gib <= 1024 && floor(var.volume_gib) == var.volume_gib
    error_message = "A whole number: the images need 8 GiB, and more than 1024 is surely a slip."
  }
}

variable "session_manager" {
  description = "Whether Session Manager may open a shell on the hosts: it needs no open port and no key."
  type        = bool
  default     = true
}

variable "ship_journal" {
  description = "Whether the hosts may write their journal to the CloudWatch log group (the agent is installed by user data)."
  type        = bool
  default     = false
}

variable "log_retention_days" {
  description = "How long the log group keeps the journal. Without a number: 90 days in production, else 7."
  type        = number
  default     = null

  validation {
    condition     = var.log_retention_days == null ? true : contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "CloudWatch keeps logs for 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545 or 731 days."
  }
}

# Who may reach them

variable "http_cidrs" {
  description = "Who may open the HTTP ports: address ranges, IPv4 or IPv6. An empty list closes them; the bot needs none."
  type        = list(string)
  default     = ["0.0.0.0/0"]

  validation {
    condition     = alltrue([for cidr in var.http_cidrs : can(cidrhost(cidr, 0))])
    error_message = "Each is an address range, such as 203.0.113.0/24 or 2001:db8::/32."
  }

  validation {
    condition     = length(distinct(var.http_cidrs)) == length(var.http_cidrs)
    error_message = "Name each address range once."
  }
}

variable "http_ports" {
  description = "TCP ports that are open on one host: those that `[http]` and `[http.tls]` in its configuration listen on. With 443 among them systemd on the host opens that, too. The configuration among the outputs has 80. A load balancer has 80, and 443 with a `domain`."
  type        = list(number)
  default     = [80]

  validation {
    condition     = alltrue([for port in var.http_ports : port >= 1 && port <= 65535 && floor(port) == port && port != 22])
    error_message = "Ports are 1 to 65535, and not 22, which is ssh's."
  }

  validation {
    condition     = length(distinct(var.http_ports)) == length(var.http_ports)
    error_message = "Name each port once."
  }
}

variable "egress_ports" {
  description = "TCP ports that the hosts may reach anywhere: 443 is AWS, Discord and most chat APIs. DNS and the clock are the network's own and need no rule."
  type        = list(number)
  default     = [443]

  validation {
    condition     = contains(var.egress_ports, 443) && alltrue([for port in var.egress_ports : port >= 1 && port <= 65535 && floor(port) == port])
    error_message = "Ports are 1 to 65535, and 443 is among them: without it perch reaches neither S3 nor Discord."
  }

  validation {
    condition     = length(distinct(var.egress_ports)) == length(var.egress_ports)
    error_message = "Name each port once."
  }
}

variable "ssh" {
  description = "An EC2 key pair, and the address ranges that may use it. Left out, there is no SSH."
  type = object({
    key_name = string
    cidrs    = list(string)
  })
  default = null

  # By the number, as /0 can be written as /00, and two halves are the whole. No network that somebody has is larger.
  validation {
    condition = var.ssh == null ? true : length(var.ssh.cidrs) > 0 && alltrue([
      for cidr in var.ssh.cidrs : can(cidrhost(cidr, 0)) && try(tonumber(split("/", cidr)[1]), 0) >= (strcontains(cidr, ":") ? 16 : 8)
    ])
    error_message = "SSH is for named address ranges, never for the whole internet: each of /8 or narrower, in IPv6 of /16."
  }

  validation {
    condition     = var.ssh == null ? true : length(distinct(var.ssh.cidrs)) == length(var.ssh.cidrs)
    error_message = "Name each address range once."
  }
}

# More than one host

variable "web" {
  description = "HTTP on as many hosts as wanted behind a load balancer, beside the one host that holds the Discord session. Left out, one host does both. `sticky_seconds` is how long a browser stays with the host that it met, which a WebSocket chat needs."
  type = object({
    minimum        = optional(number, 2)
    maximum        = optional(number, 4)
    instance_type  = optional(string, "t3.micro")
    cpu_target     = optional(number, 60)
    sticky_seconds = optional(number, 86400)
  })
  default = null

  validation {
    condition     = var.web == null ? true : var.web.minimum >= 1 && var.web.maximum >= var.web.minimum
    error_message = "There is at least one host, and the maximum is not below the minimum."
  }

  validation {
    condition     = var.web == null ? true : alltrue([for number in [var.web.minimum, var.web.maximum, var.web.sticky_seconds] : floor(number) == number])
    error_message = "Hosts and seconds are whole numbers."
  }

  validation {
    condition     = var.web == null ? true : length(var.subnet_ids) >= 2
    error_message = "A load balancer needs subnet_ids in two zones."
  }

  validation {
    condition     = var.web == null ? true : var.web.sticky_seconds >= 1 && var.web.sticky_seconds <= 604800
    error_message = "Stickiness lasts between a second and a week (604800)."
  }

  validation {
    condition     = var.web == null ? true : var.web.cpu_target >= 10 && var.web.cpu_target <= 90
    error_message = "The CPU that the group aims at is 10 to 90 percent."
  }

  validation {
    condition     = var.web == null ? true : can(regex("^([a-z]+[0-9]+[a-z]*g[a-z]*|a1)[.]", var.web.instance_type)) == (var.architecture == "arm64")
    error_message = "The instance type of web is not of the architecture: arm64 is t4g.micro and others with a g after the number, x86_64 those without, such as t3.micro."
  }
}

variable "domain" {
  description = "A name in a Route 53 zone that leads here; with a load balancer also its certificate, made and renewed by AWS."
  type = object({
    name    = string
    zone_id = string
  })
  default = null

  validation {
    condition     = var.domain == null ? true : can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain.name))
    error_message = "A domain's name reads like chat.example.com."
  }
}

# Who is told

variable "alarm_email" {
  description = "Who gets a mail when an alarm goes off, and when it is over. AWS asks the address once whether it agrees."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_email == null ? true : can(regex("^[^@\\s]+@[^@\\s]+$", var.alarm_email))
    error_message = "A mail address has one @."
  }
}

variable "alarm_topic_arns" {
  description = "SNS topics of yours that are told of alarms as well."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.alarm_topic_arns : can(regex("^arn:[a-z-]+:sns:", arn))])
    error_message = "Each is a topic's ARN (arn:aws:sns:REGION:ACCOUNT:NAME)."
  }
}

variable "user_data" {
  description = "User data in place of `../cloud-init`'s, for an image that needs none or another. The hosts of both kinds get it as it is."
  type        = string
  default     = null

  validation {
    condition     = var.user_data == null ? true : length(var.user_data) <= 16384
    error_message = "EC2 takes 16 KiB of user data."
  }
}
